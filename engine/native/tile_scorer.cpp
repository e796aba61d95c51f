#include "engine/native/tile_scorer.h"

#include <algorithm>
#include <cstring>
#include <iterator>

namespace llmsrec {
namespace {

constexpr int kAccumulators = 12;  // vectors that fit the registers of every target

template <int lanes>
void OfferRow(const float* scores, int32_t row, QueryGroup& group) {
  for (int lane = 0; lane < lanes; ++lane) {
    if (scores[lane] > group.thresholds[lane]) {
      group.selections[lane].Offer({scores[lane], row});
      group.thresholds[lane] = group.selections[lane].threshold();
    }
  }
}

template <int width>
struct Vector {
  typedef float Floats __attribute__((vector_size(width * sizeof(float))));
  typedef int32_t Mask __attribute__((vector_size(width * sizeof(float))));
};

// One copy per vector: a single large one would go through the stack.
template <int width, int num_vectors>
[[gnu::always_inline]] inline void Load(const float* source,
                                        typename Vector<width>::Floats (&vectors)[num_vectors]) {
  for (int i = 0; i < num_vectors; ++i) {
    std::memcpy(&vectors[i], source + i * width, sizeof(vectors[i]));
  }
}

// Scores num_rows items for `lanes` queries with vectors of `width` floats.
template <int lanes, int width, int num_rows>
[[gnu::always_inline]] inline void ScoreRows(const Tile& tile, int64_t first, QueryGroup& group) {
  constexpr int kVectors = lanes / width;
  using Floats = typename Vector<width>::Floats;
  const float* items = tile.items + first * tile.dim;
  Floats scores[num_rows][kVectors] = {};
  for (int64_t d = 0; d < tile.dim; ++d) {
    __builtin_prefetch(items + (tile.dim + d) * num_rows);  // the rows of the next step
    Floats queries[kVectors];
    Load<width>(group.packed + d * lanes, queries);
#pragma GCC unroll 16
    for (int row = 0; row < num_rows; ++row) {
#pragma GCC unroll 16
      for (int i = 0; i < kVectors; ++i) scores[row][i] += items[row * tile.dim + d] * queries[i];
    }
  }
  typename Vector<width>::Mask hits = {};
  Floats thresholds[kVectors];
  Load<width>(group.thresholds, thresholds);
#pragma GCC unroll 16
  for (int row = 0; row < num_rows; ++row) {
#pragma GCC unroll 16
    for (int i = 0; i < kVectors; ++i) hits |= scores[row][i] > thresholds[i];
  }
  int64_t words[sizeof(hits) / sizeof(int64_t)];
  std::memcpy(words, &hits, sizeof(hits));
  if (std::all_of(std::begin(words), std::end(words), [](int64_t word) { return word == 0; })) {
    return;
  }
  float kept[num_rows][lanes];
  std::memcpy(kept, scores, sizeof(kept));
  for (int row = 0; row < num_rows; ++row) {
    OfferRow<lanes>(kept[row], static_cast<int32_t>(tile.first_row + first + row), group);
  }
}

template <int lanes, int width>
[[gnu::always_inline]] inline void ScoreTile(const Tile& tile, QueryGroup& group) {
  constexpr int kRows = kAccumulators * width / lanes;
  int64_t row = 0;
  for (; row + kRows <= tile.num_rows; row += kRows) {
    ScoreRows<lanes, width, kRows>(tile, row, group);
  }
  for (; row < tile.num_rows; ++row) ScoreRows<lanes, width, 1>(tile, row, group);
}

template <int width>
[[gnu::always_inline]] inline void ScoreTileFor(const Tile& tile, QueryGroup& group) {
  if (group.num_lanes == kFewLanes) {
    ScoreTile<kFewLanes, kFewLanes>(tile, group);
  } else {
    ScoreTile<kLanes, width>(tile, group);
  }
}

void ScoreTile128(const Tile& tile, QueryGroup& group) { ScoreTileFor<4>(tile, group); }

#if defined(__x86_64__)
[[gnu::target("arch=x86-64-v3")]] void ScoreTile256(const Tile& tile, QueryGroup& group) {
  ScoreTileFor<8>(tile, group);
}

[[gnu::target("arch=x86-64-v4")]] void ScoreTile512(const Tile& tile, QueryGroup& group) {
  ScoreTileFor<16>(tile, group);
}

#endif

}  // namespace

TileScorer BestTileScorer() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("x86-64-v4")) return ScoreTile512;
  if (__builtin_cpu_supports("x86-64-v3")) return ScoreTile256;
#endif
  return ScoreTile128;
}

}  // namespace llmsrec
