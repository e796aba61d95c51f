// Runs the GPU's masked top-k on the host: the kernels' own code, one thread after the other.
#include <cstddef>
#include <cstdint>
#include <vector>

#include "engine/native/cuda/item_types.h"
#include "engine/native/cuda/rank.h"
#include "engine/native/cuda/score_groups.h"
#include "engine/native/cuda/select.h"
#include "engine/native/cuda/task.h"

namespace llmsrec::gpu {
namespace {

// What an order of the threads changes is a race on the GPU, so tests run both orders.
template <typename Own>
class EmulatedBlock {
 public:
  EmulatedBlock(int num_threads, bool is_reversed) : own_(num_threads), is_reversed_(is_reversed) {}

  template <typename F>
  void Step(F step) {
    const int num_threads = static_cast<int>(own_.size());
    for (int i = 0; i < num_threads; ++i) {
      const int thread = is_reversed_ ? num_threads - 1 - i : i;
      step(thread, own_[thread]);
    }
  }

  template <typename T>
  T Read(const T& shared) {
    return shared;
  }

 private:
  std::vector<Own> own_;
  bool is_reversed_;
};

template <typename T, int num_quads>
void ScoreAllGroups(const TopKTask& task, int64_t num_blocks, bool is_reversed) {
  EmulatedBlock<ScoreThread<num_quads>> block(kScoreThreads, is_reversed);
  for (int64_t query = 0; query < task.num_queries; query += TileShape<num_quads>::kQueries) {
    for (int64_t index = 0; index < num_blocks; ++index) {
      ScoreShared<num_quads> shared;
      ScoreGroups<T>(block, shared, task, {index, num_blocks, query});
    }
  }
}

template <typename T>
void Run(const TopKTask& task, int64_t num_blocks, bool is_wide, bool is_reversed) {
  if (is_wide) {
    ScoreAllGroups<T, 2>(task, num_blocks, is_reversed);
  } else {
    ScoreAllGroups<T, 1>(task, num_blocks, is_reversed);
  }
  EmulatedBlock<SelectThread> block(kSelectThreads, is_reversed);
  for (int64_t query = 0; query < task.num_queries; ++query) {
    SelectShared shared;
    SelectGroups(block, shared, task, query);
    for (int64_t candidate = 0; candidate < task.max_groups * kGroupRows; ++candidate) {
      ScoreCandidate<T>(task, query, candidate);
    }
    RankCandidates(block, shared, task, query);
  }
}

}  // namespace
}  // namespace llmsrec::gpu

extern "C" {

size_t workspace_bytes(const llmsrec::gpu::TopKShape* shape) {
  return llmsrec::gpu::WorkspaceBytes(*shape);
}

void masked_topk(const llmsrec::gpu::TopKShape* shape, const llmsrec::gpu::TopKBuffers* buffers,
                 void* workspace, int64_t num_blocks, bool is_wide, bool is_reversed) {
  using namespace llmsrec::gpu;
  Workspace arrays(workspace);
  const TopKTask task = MakeTask(*shape, *buffers, arrays);
  switch (shape->item_type) {
    case ItemType::kFloat32:
      return Run<float>(task, num_blocks, is_wide, is_reversed);
    case ItemType::kFloat16:
      return Run<Float16>(task, num_blocks, is_wide, is_reversed);
    case ItemType::kBFloat16:
      return Run<BFloat16>(task, num_blocks, is_wide, is_reversed);
  }
}

float widen_float16(uint16_t bits) { return llmsrec::gpu::ToFloat(llmsrec::gpu::Float16{bits}); }
}
