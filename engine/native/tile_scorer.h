// Scores a tile of items for a group of queries with the processor's widest vectors.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/native/selection.h"

namespace llmsrec {

constexpr int kLanes = 16;
constexpr int kFewLanes = 4;  // wastes less on a lone query

// Up to kLanes queries that are scored together.
struct QueryGroup {
  int num_lanes;             // kLanes or kFewLanes
  const float* packed;       // [D, num_lanes], so that no inner product is summed across lanes
  float thresholds[kLanes];  // of each selection; infinity in a lane without a query
  std::vector<Selection> selections;
};

struct Tile {
  const float* items;  // [num_rows, dim]
  int64_t first_row;
  int64_t num_rows;
  int64_t dim;
};

using TileScorer = void (*)(const Tile& tile, QueryGroup& group);

// Chooses by what the processor supports. Tiles must come in ascending order of their rows.
TileScorer BestTileScorer();

}  // namespace llmsrec
