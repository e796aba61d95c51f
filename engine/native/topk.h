// Exact masked top-k by inner product, on raw buffers.
#pragma once

#include <cstdint>

namespace llmsrec {

struct TopKInput {
  const float* queries;             // [B, D]
  const float* items;               // [N, D]
  const int32_t* excluded_rows;     // [E], ascending and unique within each query
  const int64_t* excluded_offsets;  // [B + 1]: where each query's excluded rows start and end
  const int32_t* k;                 // [B]
  int64_t num_queries;
  int64_t num_items;
  int64_t dim;
};

struct TopKOutput {
  int32_t* rows;  // [B, max_k], best first, ties by the lower row; -1 where none remain
  float* scores;  // [B, max_k]; -infinity where none remain
  int64_t max_k;  // at least the largest k
};

// Scores every item for every query and keeps the best k that are not excluded.
//
// A query's answer depends neither on num_threads nor on the other queries: each inner product is
// summed in the order of its dimensions. A score that is NaN or -infinity is never kept, so the
// caller provides finite vectors. Blocks until done; num_threads, at least 1, counts the
// calling thread.
void MaskedTopK(const TopKInput& input, const TopKOutput& output, int num_threads);

}  // namespace llmsrec
