#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# All scenarios on all releases, under a name for which automake has a rule. They often wait, for systemd and for each
# other: one more at a time than there are processors.
exec "$(dirname "$0")/run" --jobs="$(($(nproc) + 1))"
