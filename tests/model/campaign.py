# SPDX-License-Identifier: Apache-2.0
"""Sequence after sequence, until the time is over or there is a difference."""

import collections
import time

from driver import run_steps
from generator import Generator
from model import Model

STEPS = 60

Result = collections.namedtuple('Result', 'sequences ops number found steps setting')


def campaign(world, program, seed, seconds, is_upstream=False, first=0, model_of=Model, limit=None):
    """Plays the sequences of a seed from the first one on. found: None, or the Difference; then steps and setting are those
    that led to it."""
    deadline, number, ops = time.monotonic() + seconds, first, 0
    while time.monotonic() < deadline and (limit is None or number < first + limit):
        made = Generator(f'{seed}/{number}', world, program, is_upstream)
        steps = made.steps(STEPS)
        found, sequence = run_steps(made.setting, steps, model_of)
        ops += sequence.ops
        number += 1
        if found:
            return Result(number - first, ops, number - 1, found, steps, made.setting)
    return Result(number - first, ops, None, None, None, None)
