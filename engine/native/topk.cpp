// Exact masked top-k on the CPU.
//
// Items are read in tiles that stay in a core's cache while every group of queries passes over
// them; each thread keeps its own selections, which are merged at the end.
#include "engine/native/topk.h"

#include <algorithm>
#include <atomic>
#include <span>
#include <thread>
#include <vector>

#include "engine/native/selection.h"
#include "engine/native/tile_scorer.h"

namespace llmsrec {
namespace {

constexpr int64_t kTileFloats = 32 * 1024;                  // half of a small second-level cache
constexpr int64_t kMinProductsPerThread = 2 * 1024 * 1024;  // less does not pay for a thread

using QueryGroups = std::vector<QueryGroup>;

int NumLanes(const TopKInput& input, int64_t first_query) {
  return input.num_queries - first_query <= kFewLanes ? kFewLanes : kLanes;
}

// All queries as groups of [D, lanes]; a lane without a query is zero.
std::vector<float> PackQueries(const TopKInput& input) {
  const int64_t num_groups = (input.num_queries + kLanes - 1) / kLanes;
  std::vector<float> packed(num_groups * kLanes * input.dim);
  for (int64_t query = 0; query < input.num_queries; ++query) {
    const int64_t lane = query % kLanes;
    const int num_lanes = NumLanes(input, query - lane);
    float* group = packed.data() + (query - lane) * input.dim;
    for (int64_t d = 0; d < input.dim; ++d) {
      group[d * num_lanes + lane] = input.queries[query * input.dim + d];
    }
  }
  return packed;
}

QueryGroups MakeGroups(const TopKInput& input, const std::vector<float>& packed) {
  QueryGroups groups;
  for (int64_t first = 0; first < input.num_queries; first += kLanes) {
    QueryGroup& group = groups.emplace_back();
    group.num_lanes = NumLanes(input, first);
    group.packed = packed.data() + first * input.dim;
    std::fill_n(group.thresholds, kLanes, kInfinity);
    const int64_t end = std::min(first + kLanes, input.num_queries);
    for (int64_t query = first; query < end; ++query) {
      const int64_t offset = input.excluded_offsets[query];
      const std::span excluded(input.excluded_rows + offset,
                               input.excluded_offsets[query + 1] - offset);
      const Selection& selection = group.selections.emplace_back(
          std::min<int64_t>(input.k[query], input.num_items), excluded);
      group.thresholds[query - first] = selection.threshold();
    }
  }
  return groups;
}

int64_t TileRows(int64_t dim) {
  constexpr int64_t kMultiple = 12;  // of the rows of one step, whatever the vectors' width
  return std::max<int64_t>(1, kTileFloats / dim / kMultiple) * kMultiple;
}

// Takes tiles in ascending order until none is left.
void ScanTiles(const TopKInput& input, std::atomic<int64_t>& next_tile, QueryGroups& groups) {
  const TileScorer score_tile = BestTileScorer();
  const int64_t tile_rows = TileRows(input.dim);
  while (true) {
    const int64_t first = next_tile.fetch_add(1, std::memory_order_relaxed) * tile_rows;
    if (first >= input.num_items) return;
    const int64_t num_rows = std::min(tile_rows, input.num_items - first);
    const Tile tile{input.items + first * input.dim, first, num_rows, input.dim};
    for (QueryGroup& group : groups) score_tile(tile, group);
  }
}

int64_t NumWorkers(const TopKInput& input, int num_threads) {
  const int64_t products = input.num_queries * input.num_items * input.dim;
  const int64_t num_tiles = input.num_items / TileRows(input.dim);
  const int64_t useful = std::min(products / kMinProductsPerThread, num_tiles);
  return std::clamp<int64_t>(useful, 1, num_threads);
}

void WriteBest(const std::vector<QueryGroups>& workers, int64_t query, int64_t k,
               const TopKOutput& output) {
  std::vector<Candidate> best;
  for (const QueryGroups& groups : workers) {
    const auto& found = groups[query / kLanes].selections[query % kLanes].candidates();
    best.insert(best.end(), found.begin(), found.end());
  }
  std::sort(best.begin(), best.end(), IsBetter);
  best.resize(std::min<int64_t>(k, std::ssize(best)));
  int32_t* rows = output.rows + query * output.max_k;
  float* scores = output.scores + query * output.max_k;
  std::fill_n(rows, output.max_k, -1);
  std::fill_n(scores, output.max_k, -kInfinity);
  for (const Candidate& candidate : best) {
    *rows++ = candidate.row;
    *scores++ = candidate.score;
  }
}

}  // namespace

void MaskedTopK(const TopKInput& input, const TopKOutput& output, int num_threads) {
  const std::vector<float> packed = PackQueries(input);
  std::vector<QueryGroups> workers;
  for (int64_t i = NumWorkers(input, num_threads); i > 0; --i) {
    workers.push_back(MakeGroups(input, packed));
  }
  std::atomic<int64_t> next_tile = 0;
  {
    std::vector<std::jthread> threads;
    for (auto groups = workers.begin() + 1; groups != workers.end(); ++groups) {
      threads.emplace_back([&, groups] { ScanTiles(input, next_tile, *groups); });
    }
    ScanTiles(input, next_tile, workers.front());
  }
  for (int64_t query = 0; query < input.num_queries; ++query) {
    WriteBest(workers, query, input.k[query], output);
  }
}

}  // namespace llmsrec
