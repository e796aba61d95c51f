// Takes the greatest k of the keys of one query: a radix selection by one block.
#pragma once

#include <cstdint>

#include "engine/native/cuda/device_code.h"
#include "engine/native/cuda/rank_key.h"

namespace llmsrec::gpu {

constexpr int kSelectThreads = 512;
constexpr int kDigitBits = 8;
constexpr int kDigits = 1 << kDigitBits;

struct Choice {
  int digit;          // -1 where too few keys are ranked to choose
  int64_t num_above;  // keys of greater digits
  int64_t num_of_digit;
};

struct SelectShared {
  uint32_t num_of_digit[kDigits];
  Choice choice;
  uint32_t num_taken;
};

struct SelectThread {};

// Calls visit(key) for a thread's share of the ranked keys.
template <typename KeyOf, typename Visit>
LLMSREC_DEVICE void VisitKeys(int thread, int64_t num_keys, KeyOf key_of, Visit visit) {
  constexpr int kBatch = 8;  // loads under way at a time
  for (int64_t first = thread; first < num_keys; first += kBatch * kSelectThreads) {
    RankKey keys[kBatch];
    LLMSREC_UNROLL
    for (int i = 0; i < kBatch; ++i) {
      const int64_t index = first + i * kSelectThreads;
      keys[i] = index < num_keys ? key_of(index) : kUnranked;
    }
    LLMSREC_UNROLL
    for (int i = 0; i < kBatch; ++i) {
      if (keys[i] != kUnranked) visit(keys[i]);
    }
  }
}

// Finds the digit in which the num_missing greatest keys end.
LLMSREC_DEVICE void ChooseDigit(int digit, int64_t num_missing, SelectShared& shared) {
  int64_t num_above = 0;
  for (int other = digit + 1; other < kDigits; ++other) num_above += shared.num_of_digit[other];
  const int64_t num_of_digit = shared.num_of_digit[digit];
  if (num_above < num_missing && num_missing <= num_above + num_of_digit) {
    shared.choice = {digit, num_above, num_of_digit};
  }
}

// A bound that exactly min(k, number of ranked keys) ranked keys reach, since no two are equal.
template <typename Block, typename KeyOf>
LLMSREC_DEVICE RankKey FindBound(Block& block, SelectShared& shared, int64_t num_keys, int64_t k,
                                 KeyOf key_of) {
  if (k == 0) return kAboveAll;
  RankKey bound = 0;
  int64_t num_missing = k;
  for (int shift = 64 - kDigitBits; shift >= 0; shift -= kDigitBits) {
    block.Step([&](int thread, SelectThread&) {
      if (thread < kDigits) shared.num_of_digit[thread] = 0;
      if (thread == 0) shared.choice.digit = -1;
    });
    block.Step([&](int thread, SelectThread&) {
      VisitKeys(thread, num_keys, key_of, [&](RankKey key) {
        const bool is_open = (key ^ bound) >> shift >> kDigitBits == 0;
        if (is_open) Increment(shared.num_of_digit[(key >> shift) % kDigits]);
      });
    });
    block.Step([&](int thread, SelectThread&) {
      if (thread < kDigits) ChooseDigit(thread, num_missing, shared);
    });
    const Choice choice = block.Read(shared.choice);
    if (choice.digit < 0) break;
    bound |= static_cast<RankKey>(choice.digit) << shift;
    num_missing -= choice.num_above;
    if (choice.num_of_digit == num_missing) break;
  }
  return bound;
}

// Calls take(place, key) for the greatest k ranked keys, in no order, and gives their number.
template <typename Block, typename KeyOf, typename Take>
LLMSREC_DEVICE int64_t TakeBest(Block& block, SelectShared& shared, int64_t num_keys, int64_t k,
                                KeyOf key_of, Take take) {
  const RankKey bound = FindBound(block, shared, num_keys, k, key_of);
  block.Step([&](int thread, SelectThread&) {
    if (thread == 0) shared.num_taken = 0;
  });
  block.Step([&](int thread, SelectThread&) {
    VisitKeys(thread, num_keys, key_of, [&](RankKey key) {
      if (key >= bound) take(Increment(shared.num_taken), key);
    });
  });
  return block.Read(shared.num_taken);
}

}  // namespace llmsrec::gpu
