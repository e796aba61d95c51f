// A tile of items against a tile of queries: staged in shared memory, multiplied in registers.
#pragma once

#include <cmath>
#include <cstdint>

#include "engine/native/cuda/device_code.h"
#include "engine/native/cuda/exclusions.h"
#include "engine/native/cuda/item_types.h"
#include "engine/native/cuda/task.h"

namespace llmsrec::gpu {

constexpr int kScoreThreads = 128;
constexpr int kTileItems = 128;
constexpr int kTileGroups = kTileItems / kGroupRows;
constexpr int kDepth = 32;  // dimensions staged at a time
constexpr int kQuad = 4;    // floats that one instruction loads
constexpr int kTileQuads = kTileItems / kQuad;
constexpr int kGroupQuads = kGroupRows / kQuad;

struct alignas(16) Quad {
  float values[kQuad];
};

// A thread's square is num_quads quads of queries by as many of items: two do the most work per
// load, one wastes less on few queries.
template <int num_quads>
struct TileShape {
  static constexpr int kSide = num_quads * kQuad;
  static constexpr int kItemThreads = kTileItems / kSide;
  static constexpr int kQueryThreads = kScoreThreads / kItemThreads;
  static constexpr int kQueries = kQueryThreads * kSide;
};

template <int num_quads>
struct alignas(16) ScoreShared {
  static constexpr int kQueries = TileShape<num_quads>::kQueries;
  union {
    struct {
      float items[kDepth][kTileItems];
      float queries[kDepth][kQueries];
    } staged;
    uint32_t quad_maxima[kTileQuads][kQueries + 1];  // one more, to spread them over the banks
  };
  uint32_t unranked[kQueries][kTileGroups];  // a bit for each row of a group
  ExcludedRows excluded[kQueries];
};

template <int num_quads>
struct ScoreThread {
  static constexpr int kSide = TileShape<num_quads>::kSide;
  float scores[kSide][kSide];  // [query, item]
};

// Where dimension d of a vector stands in its staged row: shuffled, so that neither storing eight
// dimensions of a vector nor loading a quad of vectors meets a bank twice.
template <int num_columns>
LLMSREC_DEVICE int StagedColumn(int d, int column) {
  constexpr int kShuffled = 24;
  return column ^ (d & kShuffled & (num_columns - 1));
}

// Stages dimensions [first_dim, first_dim + kDepth) of vectors, zero where there are none.
template <typename T, int num_columns>
LLMSREC_DEVICE void Stage(int thread, const T* vectors, int64_t num_vectors, int64_t first_dim,
                          const TopKTask& task, float (&staged)[kDepth][num_columns]) {
  constexpr int kOctets = kDepth / kOctet;
  constexpr int kStride = kScoreThreads / kOctets;
  constexpr int kRounds = (num_columns + kStride - 1) / kStride;
  const int first_d = thread % kOctets * kOctet;
  const int first_column = thread / kOctets;
  Octet<T> octets[kRounds];
  LLMSREC_UNROLL
  for (int round = 0; round < kRounds; ++round) {
    const int column = first_column + round * kStride;
    octets[round] = {};
    if (column < num_vectors) {
      octets[round] =
          LoadOctet(vectors + column * task.dim, first_dim + first_d, task.dim, task.is_aligned);
    }
  }
  LLMSREC_UNROLL
  for (int round = 0; round < kRounds; ++round) {
    const int column = first_column + round * kStride;
    if (column >= num_columns) break;
    LLMSREC_UNROLL
    for (int i = 0; i < kOctet; ++i) {
      const int d = first_d + i;
      staged[d][StagedColumn<num_columns>(d, column)] = Element(octets[round], i);
    }
  }
}

// The vectors of a thread are quads that stand `num_threads` quads apart.
template <int num_quads, int num_columns>
LLMSREC_DEVICE void LoadSide(const float (&staged)[kDepth][num_columns], int d, int thread,
                             int num_threads, float (&side)[num_quads * kQuad]) {
  LLMSREC_UNROLL
  for (int i = 0; i < num_quads; ++i) {
    const int column = (i * num_threads + thread) * kQuad;
    const Quad quad =
        *reinterpret_cast<const Quad*>(&staged[d][StagedColumn<num_columns>(d, column)]);
    LLMSREC_UNROLL
    for (int j = 0; j < kQuad; ++j) side[i * kQuad + j] = quad.values[j];
  }
}

template <int num_quads>
LLMSREC_DEVICE void AddProducts(int thread, const ScoreShared<num_quads>& shared,
                                ScoreThread<num_quads>& own) {
  using Shape = TileShape<num_quads>;
  const int item_thread = thread % Shape::kItemThreads;
  const int query_thread = thread / Shape::kItemThreads;
  for (int octet = 0; octet < kDepth / kOctet; ++octet) {
    LLMSREC_UNROLL
    for (int i = 0; i < kOctet; ++i) {
      const int d = octet * kOctet + i;
      float items[Shape::kSide];
      float queries[Shape::kSide];
      LoadSide<num_quads>(shared.staged.items, d, item_thread, Shape::kItemThreads, items);
      LoadSide<num_quads>(shared.staged.queries, d, query_thread, Shape::kQueryThreads, queries);
      LLMSREC_UNROLL
      for (int query = 0; query < Shape::kSide; ++query) {
        LLMSREC_UNROLL
        for (int item = 0; item < Shape::kSide; ++item) {
          own.scores[query][item] = fmaf(items[item], queries[query], own.scores[query][item]);
        }
      }
    }
  }
}

}  // namespace llmsrec::gpu
