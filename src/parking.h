/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Connections, parked in two lots so that they outlive the process whatever happens to it. In one lot they are parked
 * one by one; some hundreds together move to the other, in batches, which takes less room. When too many of these
 * have ended, those that live move back, and the lots change their parts.
 *
 * Each is parked under the tag of a record; there is one place for each slot that a record can have. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lot.h"
#include "util.h"

enum { PARKING_LOTS = 2 };

/* Outcomes. */
enum {
        PARKING_FULL = 1, /* no room in the lots, or no place of that slot */
};

typedef struct Parking Parking;

/* Whether the record of a tag is that of a registered node, and the SO_COOKIE of its connection; 0: not known. */
typedef bool (*ParkingLiveFunction)(const void *userdata, LotTag tag, uint64_t *ret_cookie);

int parking_new(const Lot lots[PARKING_LOTS], uint32_t slots, size_t in_flight_max, Parking **ret);
Parking *parking_free(Parking *parking);
DEFINE_CLEANUP(Parking *, parking_free)

int parking_resize(Parking *parking, uint32_t slots);
size_t parking_capacity(const Parking *parking);
Lot parking_lot(const Parking *parking, size_t index);

int parking_claim(Parking *parking, ParkingLiveFunction is_live, const void *userdata, size_t *ret_mismatched);
int parking_fd(const Parking *parking, uint32_t slot);
void parking_settle(Parking *parking);

int parking_keep(Parking *parking, LotTag tag, int fd);
void parking_drop(Parking *parking, uint32_t slot);
