/* SPDX-License-Identifier: Apache-2.0 */
#include "address.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>

/* Reads a literal IPv4 or IPv6 address, which need not be terminated; the port is 0. Returns false, with *ret untouched,
 * when it is none. */
bool address_parse(const char *text, size_t n, Address *ret) {
        char copy[INET6_ADDRSTRLEN + 1];
        Address address = {};

        if (n >= sizeof copy)
                return false;
        memcpy(copy, text, n);
        copy[n] = 0;
        if (inet_pton(AF_INET, copy, address.ip) == 1)
                address.family = AF_INET;
        else if (inet_pton(AF_INET6, copy, address.ip) == 1)
                address.family = AF_INET6;
        else
                return false;
        *ret = address;
        return true;
}

/* Makes an IPv4 address of an IPv6 one that only stands for it. Returns whether it was one. */
bool address_unmap(Address *address) {
        static const uint8_t prefix[12] = {[10] = 0xff, [11] = 0xff};
        uint8_t ip[16] = {};

        if (address->family != AF_INET6 || memcmp(address->ip, prefix, sizeof prefix) != 0)
                return false;
        memcpy(ip, address->ip + 12, 4);
        memcpy(address->ip, ip, sizeof ip);
        address->family = AF_INET;
        return true;
}

/* Converts what accept4() or getsockname() gave. */
Address address_from_socket(const SocketAddress *socket) {
        Address address = {};

        switch (socket->any.sa_family) {
        case AF_INET:
                address.family = AF_INET;
                address.port = ntohs(socket->in.sin_port);
                memcpy(address.ip, &socket->in.sin_addr, 4);
                break;
        case AF_INET6:
                address.family = AF_INET6;
                address.port = ntohs(socket->in6.sin6_port);
                memcpy(address.ip, &socket->in6.sin6_addr, 16);
                (void) address_unmap(&address);
                break;
        case AF_UNIX:
                address.family = AF_UNIX;
                break;
        default:
                break;
        }
        return address;
}

/* The other way round, for bind() and connect(). Returns the length. */
socklen_t address_to_socket(const Address *address, SocketAddress *ret) {
        *ret = (SocketAddress){};
        if (address->family == AF_INET) {
                ret->in.sin_family = AF_INET;
                ret->in.sin_port = htons(address->port);
                memcpy(&ret->in.sin_addr, address->ip, 4);
                return sizeof ret->in;
        }
        ret->in6.sin6_family = AF_INET6;
        ret->in6.sin6_port = htons(address->port);
        memcpy(&ret->in6.sin6_addr, address->ip, 16);
        return sizeof ret->in6;
}

/* 127.0.0.0/8 and ::1. */
bool address_is_loopback(const Address *address) {
        if (address->family == AF_INET)
                return address->ip[0] == 127;
        return address->family == AF_INET6 && memcmp(address->ip, &in6addr_loopback, 16) == 0;
}

/* 0.0.0.0 and ::. */
bool address_is_any(const Address *address) {
        static const uint8_t zero[16];

        return (address->family == AF_INET || address->family == AF_INET6) &&
               memcmp(address->ip, zero, sizeof zero) == 0;
}

/* Whether both are the same IP address; the ports do not matter. */
bool address_same_host(const Address *a, const Address *b) {
        return a->family == b->family && (a->family == AF_INET || a->family == AF_INET6) &&
               memcmp(a->ip, b->ip, sizeof a->ip) == 0;
}

/* "192.0.2.1" or "2001:db8::1", "?" for others; always returns buffer. */
const char *address_format_ip(const Address *address, char buffer[ADDRESS_TEXT_MAX]) {
        if (!inet_ntop(address->family, address->ip, buffer, ADDRESS_TEXT_MAX))
                (void) strcpy(buffer, "?");
        return buffer;
}

/* "192.0.2.1:4369", "[2001:db8::1]:4369" or "local socket"; always returns buffer. */
const char *address_format(const Address *address, char buffer[ADDRESS_TEXT_MAX]) {
        char ip[ADDRESS_TEXT_MAX];

        if (address->family == AF_INET || address->family == AF_INET6) {
                address_format_ip(address, ip);
                (void) snprintf(buffer, ADDRESS_TEXT_MAX, address->family == AF_INET6 ? "[%s]:%u" : "%s:%u", ip,
                                (unsigned) address->port);
        } else
                (void) snprintf(buffer, ADDRESS_TEXT_MAX, "%s",
                                address->family == AF_UNIX ? "local socket" : "unknown address");
        return buffer;
}
