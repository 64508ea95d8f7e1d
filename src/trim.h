/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Memory that only the start of the program needs. */

void trim_code(void);
