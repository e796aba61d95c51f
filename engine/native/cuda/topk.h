// Exact masked top-k by inner product on the GPU.
#pragma once

#include <cuda_runtime_api.h>

#include <vector>

#include "engine/native/cuda/task.h"

namespace llmsrec::gpu {

// Queues four kernels on the stream. It neither allocates nor waits, so a graph can capture it.
//
// Gives the rows and scores that the CPU's kernel gives for the items widened to float, bit for
// bit, whatever shares the batch. `workspace` holds WorkspaceBytes(shape).
//
// Throws std::runtime_error where the device cannot run the kernels.
void MaskedTopK(const TopKShape& shape, const TopKBuffers& buffers, void* workspace,
                cudaStream_t stream);

// 0 where there is no driver.
int NumDevices();

// As nvcc names them, times ten: 900 is compute capability 9.0.
std::vector<int> BuiltArchitectures();

}  // namespace llmsrec::gpu
