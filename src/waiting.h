/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Waiting for a descriptor, but never beyond a point in time: what every client of ours does. */

#include <stdint.h>

uint64_t waiting_now(void);
int waiting_until(int fd, short events, uint64_t deadline);
