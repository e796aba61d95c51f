// What lets the kernels' code compile for the GPU and, for its tests, for the host.
//
// The program of a block is a sequence of steps. `block.Step(f)` runs f(thread, own) for every
// thread and ends with a barrier, so within a step no thread may read what another one writes;
// `own` is what a thread keeps from step to step. Between steps, shared memory is read through
// `block.Read` alone. On the GPU the threads run at once, on the host one after the other.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define LLMSREC_DEVICE __device__ __forceinline__
#define LLMSREC_UNROLL _Pragma("unroll")
#else
#define LLMSREC_DEVICE inline
#define LLMSREC_UNROLL
#endif

namespace llmsrec::gpu {

template <typename To, typename From>
LLMSREC_DEVICE To BitCast(From value) {
  static_assert(sizeof(To) == sizeof(From));
  To result;
  memcpy(&result, &value, sizeof(result));
  return result;
}

// Adds one and gives the value before.
LLMSREC_DEVICE uint32_t Increment(uint32_t& counter) {
#if defined(__CUDA_ARCH__)
  return atomicAdd(&counter, 1u);
#else
  return counter++;
#endif
}

}  // namespace llmsrec::gpu
