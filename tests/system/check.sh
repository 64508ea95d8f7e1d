#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# All scenarios on all releases, under a name for which automake has a rule.
exec "$(dirname "$0")/run"
