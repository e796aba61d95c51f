// What the kernels of one masked top-k read and write, and where the workspace holds it.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "engine/native/cuda/item_types.h"
#include "engine/native/cuda/rank_key.h"

namespace llmsrec::gpu {

constexpr int kGroupRows = 32;  // neighbouring rows whose best score stands for all of them

enum class ItemType { kFloat32, kFloat16, kBFloat16 };

struct TopKShape {
  int64_t num_queries;
  int64_t num_items;
  int64_t dim;
  int64_t max_k;
  ItemType item_type;

  int64_t num_groups() const { return (num_items + kGroupRows - 1) / kGroupRows; }
  int64_t max_groups() const { return std::min(max_k, num_groups()); }
  int64_t max_ranked() const {
    return static_cast<int64_t>(std::bit_ceil<uint64_t>(std::min(max_k, num_items)));
  }
};

// Device memory of the caller.
struct TopKBuffers {
  const float* queries;             // [B, D]
  const void* items;                // [N, D]
  const int32_t* excluded_rows;     // [E] rows of `items`, ascending within each query
  const int64_t* excluded_offsets;  // [B + 1]
  const int32_t* k;                 // [B]
  int32_t* rows;                    // [B, max_k] rows of `items`
  float* scores;                    // [B, max_k]
};

struct TopKTask {
  TopKBuffers buffers;
  int64_t num_queries;
  int64_t num_items;
  int64_t dim;
  int64_t max_k;
  int64_t num_groups;
  int64_t max_groups;
  int64_t max_ranked;
  bool is_aligned;  // queries and items can be read in whole octets

  uint32_t* group_maxima;  // [B, num_groups] ordered scores
  int32_t* best_groups;    // [B, max_groups], -1 where none remain
  RankKey* candidates;     // [B, max_groups * kGroupRows]
  RankKey* ranked;         // [B, max_ranked]
};

// Lays the intermediate arrays out from `workspace` on, which may be null to learn the size alone.
class Workspace {
 public:
  explicit Workspace(void* workspace) : start_(reinterpret_cast<uintptr_t>(workspace)) {}

  template <typename T>
  T* Take(int64_t count) {
    constexpr size_t kAlignment = 256;
    T* array = reinterpret_cast<T*>(start_ + num_bytes_);
    num_bytes_ += (count * sizeof(T) + kAlignment - 1) / kAlignment * kAlignment;
    return array;
  }

  size_t num_bytes() const { return num_bytes_; }

 private:
  uintptr_t start_;
  size_t num_bytes_ = 0;
};

inline TopKTask MakeTask(const TopKShape& shape, const TopKBuffers& buffers, Workspace& workspace) {
  const auto is_aligned = [](const void* data) {
    return reinterpret_cast<uintptr_t>(data) % sizeof(Octet<Float16>) == 0;
  };
  const int64_t num_queries = shape.num_queries;
  return {
      .buffers = buffers,
      .num_queries = num_queries,
      .num_items = shape.num_items,
      .dim = shape.dim,
      .max_k = shape.max_k,
      .num_groups = shape.num_groups(),
      .max_groups = shape.max_groups(),
      .max_ranked = shape.max_ranked(),
      .is_aligned =
          shape.dim % kOctet == 0 && is_aligned(buffers.queries) && is_aligned(buffers.items),
      .group_maxima = workspace.Take<uint32_t>(num_queries * shape.num_groups()),
      .best_groups = workspace.Take<int32_t>(num_queries * shape.max_groups()),
      .candidates = workspace.Take<RankKey>(num_queries * shape.max_groups() * kGroupRows),
      .ranked = workspace.Take<RankKey>(num_queries * shape.max_ranked()),
  };
}

inline size_t WorkspaceBytes(const TopKShape& shape) {
  Workspace workspace(nullptr);
  MakeTask(shape, {}, workspace);
  return workspace.num_bytes();
}

}  // namespace llmsrec::gpu
