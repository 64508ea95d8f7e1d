/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Going to the background, for -daemon. */

int background_enter(int *ret_ready_fd);
int background_wait(int ready_fd);
int background_ready(int ready_fd);
