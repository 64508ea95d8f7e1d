/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Addresses of peers and listeners, small enough to be kept with every connection. An IPv4 address seen through a
 * dual-stack socket (::ffff:127.0.0.2) is the IPv4 address that it stands for. Pure. */

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/un.h>

/* What the kernel fills in for any socket that the daemon serves. */
typedef union SocketAddress {
        struct sockaddr any;
        struct sockaddr_in in;
        struct sockaddr_in6 in6;
        struct sockaddr_un un;
        struct sockaddr_storage storage;
} SocketAddress;

typedef struct Address {
        uint8_t family; /* AF_INET, AF_INET6 or AF_UNIX; AF_UNSPEC: anything else */
        uint16_t port;  /* 0 for AF_UNIX */
        uint8_t ip[16]; /* network order; IPv4 uses the first four, what is not used is 0 */
} Address;

enum { ADDRESS_TEXT_MAX = 64 };

bool address_parse(const char *text, size_t n, Address *ret);
bool address_unmap(Address *address);
Address address_from_socket(const SocketAddress *socket);
socklen_t address_to_socket(const Address *address, SocketAddress *ret);
bool address_is_loopback(const Address *address);
bool address_is_any(const Address *address);
bool address_same_host(const Address *a, const Address *b);
const char *address_format_ip(const Address *address, char buffer[ADDRESS_TEXT_MAX]);
const char *address_format(const Address *address, char buffer[ADDRESS_TEXT_MAX]);
