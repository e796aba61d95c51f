// A query's excluded rows, as the kernels look them up.
#pragma once

#include <cstdint>

#include "engine/native/cuda/device_code.h"
#include "engine/native/cuda/task.h"

namespace llmsrec::gpu {

struct ExcludedRows {
  const int32_t* next;
  const int32_t* end;
};

LLMSREC_DEVICE ExcludedRows ExcludedRowsOf(const TopKTask& task, int64_t query) {
  const TopKBuffers& buffers = task.buffers;
  return {buffers.excluded_rows + buffers.excluded_offsets[query],
          buffers.excluded_rows + buffers.excluded_offsets[query + 1]};
}

// Leaves the excluded rows from `row` on.
LLMSREC_DEVICE ExcludedRows SkipTo(int64_t row, ExcludedRows excluded) {
  const int32_t* end = excluded.end;
  while (excluded.next < end) {
    const int32_t* middle = excluded.next + (end - excluded.next) / 2;
    if (*middle < row) {
      excluded.next = middle + 1;
    } else {
      end = middle;
    }
  }
  return excluded;
}

LLMSREC_DEVICE bool IsExcluded(int64_t row, ExcludedRows excluded) {
  excluded = SkipTo(row, excluded);
  return excluded.next != excluded.end && *excluded.next == row;
}

}  // namespace llmsrec::gpu
