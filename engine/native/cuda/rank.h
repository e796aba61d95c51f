// The kernels after the first: the best groups, the scores of their rows, and the ranking.
//
// The best k rows of a query stand in the k groups of the best maxima, where groups of equal maxima
// follow the order of their rows: a row of another group has a better row in each of those k.
#pragma once

#include <cmath>
#include <cstdint>

#include "engine/native/cuda/device_code.h"
#include "engine/native/cuda/exclusions.h"
#include "engine/native/cuda/item_types.h"
#include "engine/native/cuda/rank_key.h"
#include "engine/native/cuda/select.h"
#include "engine/native/cuda/task.h"

namespace llmsrec::gpu {

LLMSREC_DEVICE int64_t NumWanted(const TopKTask& task, int64_t query) {
  const int64_t k = task.buffers.k[query];
  return k < 0 ? 0 : k > task.max_k ? task.max_k : k;
}

template <typename Block>
LLMSREC_DEVICE void SelectGroups(Block& block, SelectShared& shared, const TopKTask& task,
                                 int64_t query) {
  const uint32_t* maxima = task.group_maxima + query * task.num_groups;
  int32_t* groups = task.best_groups + query * task.max_groups;
  const int64_t num_groups = TakeBest(
      block, shared, task.num_groups, NumWanted(task, query),
      [&](int64_t group) { return MakeKey(maxima[group], group); },
      [&](int64_t place, RankKey key) { groups[place] = IndexOf(key); });
  block.Step([&](int thread, SelectThread&) {
    for (int64_t place = num_groups + thread; place < task.max_groups; place += kSelectThreads) {
      groups[place] = -1;
    }
  });
}

// Sums in the order in which the first kernel summed, so that the scores are the same.
template <typename T>
LLMSREC_DEVICE float Score(const float* query, const T* item, const TopKTask& task) {
  float score = 0;
  for (int64_t first = 0; first < task.dim; first += kOctet) {
    const Octet<T> items = LoadOctet(item, first, task.dim, task.is_aligned);
    const Octet<float> queries = LoadOctet(query, first, task.dim, task.is_aligned);
    LLMSREC_UNROLL
    for (int i = 0; i < kOctet; ++i) {
      score = fmaf(Element(items, i), Element(queries, i), score);
    }
  }
  return score;
}

// Scores one row of one of a query's best groups again.
template <typename T>
LLMSREC_DEVICE void ScoreCandidate(const TopKTask& task, int64_t query, int64_t candidate) {
  const int64_t place = query * task.max_groups * kGroupRows + candidate;
  const int64_t group = task.best_groups[place / kGroupRows];
  const int64_t item = group * kGroupRows + candidate % kGroupRows;
  RankKey key = kUnranked;
  if (group >= 0 && item < task.num_items && !IsExcluded(item, ExcludedRowsOf(task, query))) {
    const T* items = static_cast<const T*>(task.buffers.items);
    const float score =
        Score(task.buffers.queries + query * task.dim, items + item * task.dim, task);
    key = MakeKey(OrderedScore(score), item);
  }
  task.candidates[place] = key;
}

// A bitonic sort; `size` is a power of two.
template <typename Block>
LLMSREC_DEVICE void SortDescending(Block& block, RankKey* keys, int64_t size) {
  for (int64_t width = 2; width <= size; width *= 2) {
    for (int64_t stride = width / 2; stride > 0; stride /= 2) {
      block.Step([&](int thread, SelectThread&) {
        for (int64_t pair = thread; pair < size / 2; pair += kSelectThreads) {
          const int64_t first = 2 * pair - (pair & (stride - 1));
          const int64_t second = first + stride;
          const bool descends = (first & width) == 0;
          const RankKey first_key = keys[first];
          const RankKey second_key = keys[second];
          if ((first_key < second_key) == descends) {
            keys[first] = second_key;
            keys[second] = first_key;
          }
        }
      });
    }
  }
}

template <typename Block>
LLMSREC_DEVICE void RankCandidates(Block& block, SelectShared& shared, const TopKTask& task,
                                   int64_t query) {
  const int64_t num_candidates = task.max_groups * kGroupRows;
  const RankKey* candidates = task.candidates + query * num_candidates;
  RankKey* ranked = task.ranked + query * task.max_ranked;
  const int64_t num_ranked = TakeBest(
      block, shared, num_candidates, NumWanted(task, query),
      [&](int64_t candidate) { return candidates[candidate]; },
      [&](int64_t place, RankKey key) { ranked[place] = key; });
  int64_t size = 1;
  while (size < num_ranked) size *= 2;
  block.Step([&](int thread, SelectThread&) {
    for (int64_t place = num_ranked + thread; place < size; place += kSelectThreads) {
      ranked[place] = kUnranked;
    }
  });
  SortDescending(block, ranked, size);
  block.Step([&](int thread, SelectThread&) {
    int32_t* rows = task.buffers.rows + query * task.max_k;
    float* scores = task.buffers.scores + query * task.max_k;
    for (int64_t place = thread; place < task.max_k; place += kSelectThreads) {
      const bool is_found = place < num_ranked;
      rows[place] = is_found ? static_cast<int32_t>(IndexOf(ranked[place])) : -1;
      scores[place] = is_found ? ScoreOf(ranked[place]) : -INFINITY;
    }
  });
}

}  // namespace llmsrec::gpu
