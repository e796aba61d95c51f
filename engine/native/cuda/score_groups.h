// The first kernel: scores every item for every query and keeps the best score of each group.
//
// A block walks over tiles of neighbouring items. It stages a tile and its queries in shared
// memory, a few dimensions at a time, and each thread sums a small square of inner products in its
// registers, in the order of the dimensions. So a score depends on nothing but its two vectors.
#pragma once

#include <cmath>
#include <cstdint>

#include "engine/native/cuda/device_code.h"
#include "engine/native/cuda/exclusions.h"
#include "engine/native/cuda/rank_key.h"
#include "engine/native/cuda/score_tile.h"
#include "engine/native/cuda/task.h"

namespace llmsrec::gpu {

// Which of the blocks this is, and the queries it scores.
struct ScoreBlock {
  int64_t index;
  int64_t count;
  int64_t first_query;
};

// Marks the rows of a tile that one query must not rank; tiles come in ascending order.
LLMSREC_DEVICE void MarkUnranked(const TopKTask& task, int64_t first_item, ExcludedRows& excluded,
                                 uint32_t (&unranked)[kTileGroups]) {
  for (int group = 0; group < kTileGroups; ++group) {
    const int64_t num_rows = task.num_items - first_item - group * kGroupRows;
    unranked[group] = num_rows >= kGroupRows ? 0 : num_rows <= 0 ? ~0u : ~0u << num_rows;
  }
  while (excluded.next != excluded.end && *excluded.next < first_item + kTileItems) {
    const int64_t row = *excluded.next++ - first_item;
    if (row >= 0) unranked[row / kGroupRows] |= 1u << row % kGroupRows;
  }
}

template <int num_quads>
LLMSREC_DEVICE void KeepQuadMaxima(int thread, const ScoreThread<num_quads>& own,
                                   ScoreShared<num_quads>& shared) {
  using Shape = TileShape<num_quads>;
  const int item_thread = thread % Shape::kItemThreads;
  const int query_thread = thread / Shape::kItemThreads;
  LLMSREC_UNROLL
  for (int i = 0; i < Shape::kSide; ++i) {
    const int query = (i / kQuad * Shape::kQueryThreads + query_thread) * kQuad + i % kQuad;
    LLMSREC_UNROLL
    for (int j = 0; j < num_quads; ++j) {
      const int quad = j * Shape::kItemThreads + item_thread;
      const uint32_t unranked =
          shared.unranked[query][quad / kGroupQuads] >> quad % kGroupQuads * kQuad;
      float maximum = -INFINITY;
      LLMSREC_UNROLL
      for (int item = 0; item < kQuad; ++item) {
        const bool is_ranked = (unranked >> item & 1) == 0;
        if (is_ranked) maximum = fmaxf(maximum, own.scores[i][j * kQuad + item]);  // skips NaN
      }
      shared.quad_maxima[quad][query] = OrderedScore(maximum);
    }
  }
}

template <int num_quads>
LLMSREC_DEVICE void StoreGroupMaxima(int thread, const ScoreShared<num_quads>& shared,
                                     const TopKTask& task, int64_t first_query,
                                     int64_t first_group) {
  for (int i = thread; i < TileShape<num_quads>::kQueries * kTileGroups; i += kScoreThreads) {
    const int group = i % kTileGroups;
    const int query = i / kTileGroups;
    uint32_t maximum = 0;
    LLMSREC_UNROLL
    for (int quad = 0; quad < kGroupQuads; ++quad) {
      const uint32_t other = shared.quad_maxima[group * kGroupQuads + quad][query];
      maximum = other > maximum ? other : maximum;
    }
    if (first_query + query < task.num_queries && first_group + group < task.num_groups) {
      task.group_maxima[(first_query + query) * task.num_groups + first_group + group] = maximum;
    }
  }
}

template <typename T, int num_quads, typename Block>
LLMSREC_DEVICE void ScoreGroups(Block& block, ScoreShared<num_quads>& shared, const TopKTask& task,
                                const ScoreBlock& part) {
  constexpr int kQueries = TileShape<num_quads>::kQueries;
  const int64_t num_tiles = (task.num_items + kTileItems - 1) / kTileItems;
  const int64_t end_tile = num_tiles * (part.index + 1) / part.count;
  int64_t tile = num_tiles * part.index / part.count;
  const float* queries = task.buffers.queries + part.first_query * task.dim;
  const int64_t num_queries = task.num_queries - part.first_query;
  block.Step([&](int thread, ScoreThread<num_quads>&) {
    if (thread >= kQueries) return;
    shared.excluded[thread] = {};
    if (thread < num_queries) {
      shared.excluded[thread] =
          SkipTo(tile * kTileItems, ExcludedRowsOf(task, part.first_query + thread));
    }
  });
  for (; tile < end_tile; ++tile) {
    const int64_t first_item = tile * kTileItems;
    const T* items = static_cast<const T*>(task.buffers.items) + first_item * task.dim;
    block.Step([&](int thread, ScoreThread<num_quads>& own) {
      own = {};
      if (thread < kQueries) {
        MarkUnranked(task, first_item, shared.excluded[thread], shared.unranked[thread]);
      }
    });
    for (int64_t first_dim = 0; first_dim < task.dim; first_dim += kDepth) {
      block.Step([&](int thread, ScoreThread<num_quads>&) {
        Stage(thread, items, task.num_items - first_item, first_dim, task, shared.staged.items);
        Stage(thread, queries, num_queries, first_dim, task, shared.staged.queries);
      });
      block.Step([&](int thread, ScoreThread<num_quads>& own) {
        AddProducts<num_quads>(thread, shared, own);
      });
    }
    block.Step([&](int thread, const ScoreThread<num_quads>& own) {
      KeepQuadMaxima<num_quads>(thread, own, shared);
    });
    block.Step([&](int thread, const ScoreThread<num_quads>&) {
      StoreGroupMaxima<num_quads>(thread, shared, task, part.first_query, tile * kTileGroups);
    });
  }
}

}  // namespace llmsrec::gpu
