#include <algorithm>
#include <stdexcept>
#include <string>

#include "engine/native/cuda/rank.h"
#include "engine/native/cuda/score_groups.h"
#include "engine/native/cuda/select.h"
#include "engine/native/cuda/topk.h"

namespace llmsrec::gpu {
namespace {

constexpr int kCandidateThreads = 128;
constexpr int kMinScoreBlocks = 4;  // per multiprocessor, to compute while others load

// Runs the steps of a block's program; the host's counterpart is in the tests.
template <typename Own>
class DeviceBlock {
 public:
  template <typename F>
  LLMSREC_DEVICE void Step(F step) {
    step(static_cast<int>(threadIdx.x), own_);
    __syncthreads();
  }

  // The barrier lets nobody write before all have read.
  template <typename T>
  LLMSREC_DEVICE T Read(const T& shared) {
    const T value = shared;
    __syncthreads();
    return value;
  }

 private:
  Own own_;
};

template <typename T, int num_quads>
__global__ void __launch_bounds__(kScoreThreads, kMinScoreBlocks)
    ScoreGroupsKernel(const TopKTask task) {
  __shared__ ScoreShared<num_quads> shared;
  DeviceBlock<ScoreThread<num_quads>> block;
  const int64_t first_query = static_cast<int64_t>(blockIdx.y) * TileShape<num_quads>::kQueries;
  ScoreGroups<T>(block, shared, task, {blockIdx.x, gridDim.x, first_query});
}

__global__ void __launch_bounds__(kSelectThreads) SelectGroupsKernel(const TopKTask task) {
  __shared__ SelectShared shared;
  DeviceBlock<SelectThread> block;
  SelectGroups(block, shared, task, blockIdx.x);
}

template <typename T>
__global__ void __launch_bounds__(kCandidateThreads) ScoreCandidatesKernel(const TopKTask task) {
  const int64_t num_candidates = task.max_groups * kGroupRows;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kCandidateThreads + threadIdx.x;
  if (index >= task.num_queries * num_candidates) return;
  ScoreCandidate<T>(task, index / num_candidates, index % num_candidates);
}

__global__ void __launch_bounds__(kSelectThreads) RankCandidatesKernel(const TopKTask task) {
  __shared__ SelectShared shared;
  DeviceBlock<SelectThread> block;
  RankCandidates(block, shared, task, blockIdx.x);
}

std::string ArchitectureNames() {
  std::string names;
  for (const int architecture : BuiltArchitectures()) {
    names += (names.empty() ? "" : ", ") + std::to_string(architecture / 10);
  }
  return names;
}

void Check(cudaError_t error, const char* action) {
  if (error == cudaSuccess) return;
  std::string problem = std::string(action) + ": " + cudaGetErrorString(error);
  if (error == cudaErrorNoKernelImageForDevice) {
    problem += "; built for compute capabilities " + ArchitectureNames() +
               ", set LLMSREC_CUDA_ARCHITECTURES to build for others";
  }
  throw std::runtime_error(problem);
}

// No grid is too large: a block of candidates has a kilobyte of the workspace.
unsigned Grid(int64_t num_blocks) { return static_cast<unsigned>(num_blocks); }

// As many blocks as run at once, so that all end together.
int64_t NumResidentBlocks(const void* kernel) {
  int device = 0;
  int num_multiprocessors = 0;
  int num_blocks = 0;
  Check(cudaGetDevice(&device), "finding the device");
  Check(cudaDeviceGetAttribute(&num_multiprocessors, cudaDevAttrMultiProcessorCount, device),
        "counting multiprocessors");
  Check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&num_blocks, kernel, kScoreThreads, 0),
        "sizing the scoring kernel");
  return int64_t{num_multiprocessors} * num_blocks;
}

template <typename T, int num_quads>
void LaunchScoreGroups(const TopKTask& task, cudaStream_t stream) {
  constexpr int kQueries = TileShape<num_quads>::kQueries;
  const auto kernel = ScoreGroupsKernel<T, num_quads>;
  const int64_t num_chunks = (task.num_queries + kQueries - 1) / kQueries;
  const int64_t num_tiles = (task.num_items + kTileItems - 1) / kTileItems;
  const int64_t num_resident = NumResidentBlocks(reinterpret_cast<const void*>(kernel));
  const int64_t num_blocks = std::clamp<int64_t>(num_resident / num_chunks, 1, num_tiles);
  kernel<<<dim3(Grid(num_blocks), Grid(num_chunks)), kScoreThreads, 0, stream>>>(task);
  Check(cudaGetLastError(), "scoring the items");
}

template <typename T>
void LaunchScoreCandidates(const TopKTask& task, cudaStream_t stream) {
  const int64_t num_candidates = task.num_queries * task.max_groups * kGroupRows;
  const int64_t num_blocks = (num_candidates + kCandidateThreads - 1) / kCandidateThreads;
  ScoreCandidatesKernel<T><<<Grid(num_blocks), kCandidateThreads, 0, stream>>>(task);
  Check(cudaGetLastError(), "scoring the candidates");
}

template <typename T>
void FindCandidates(const TopKTask& task, cudaStream_t stream) {
  if (task.num_queries <= TileShape<1>::kQueries) {
    LaunchScoreGroups<T, 1>(task, stream);
  } else {
    LaunchScoreGroups<T, 2>(task, stream);
  }
  SelectGroupsKernel<<<Grid(task.num_queries), kSelectThreads, 0, stream>>>(task);
  Check(cudaGetLastError(), "selecting groups");
  LaunchScoreCandidates<T>(task, stream);
}

}  // namespace

void MaskedTopK(const TopKShape& shape, const TopKBuffers& buffers, void* workspace,
                cudaStream_t stream) {
  if (shape.num_queries == 0 || shape.max_k == 0) return;
  Workspace arrays(workspace);
  const TopKTask task = MakeTask(shape, buffers, arrays);
  if (shape.num_items > 0) {
    switch (shape.item_type) {
      case ItemType::kFloat32:
        FindCandidates<float>(task, stream);
        break;
      case ItemType::kFloat16:
        FindCandidates<Float16>(task, stream);
        break;
      case ItemType::kBFloat16:
        FindCandidates<BFloat16>(task, stream);
        break;
    }
  }
  RankCandidatesKernel<<<Grid(task.num_queries), kSelectThreads, 0, stream>>>(task);
  Check(cudaGetLastError(), "ranking the candidates");
}

int NumDevices() {
  int num_devices = 0;
  return cudaGetDeviceCount(&num_devices) == cudaSuccess ? num_devices : 0;
}

std::vector<int> BuiltArchitectures() { return {__CUDA_ARCH_LIST__}; }

}  // namespace llmsrec::gpu
