/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The text of a NAMES or DUMP reply, made once and shared by every connection that still has to send some of it.
 * A thousand clients that ask and do not read cost one text, not a thousand. Pure. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "registry.h"
#include "util.h"

typedef struct Listing Listing;

int listing_new_names(const Registry *registry, Listing **ret);
int listing_new_dump(const Registry *registry, Listing **ret);
Listing *listing_ref(Listing *listing);
Listing *listing_unref(Listing *listing);
bool listing_has_others(const Listing *listing);
DEFINE_CLEANUP(Listing *, listing_unref)

const uint8_t *listing_data(const Listing *listing);
size_t listing_size(const Listing *listing);
uint64_t listing_revision(const Listing *listing);
