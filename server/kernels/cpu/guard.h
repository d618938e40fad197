// The border between C++ and its C callers, who can't catch an exception. Memory is all that can be
// lacking.
#pragma once

#include <exception>

namespace glidecape {

template <class Call>
bool succeeds(const Call& call) noexcept {
  try {
    call();
    return true;
  } catch (const std::exception&) {
    return false;
  }
}

// What make() returns, or null.
template <class Make>
void* created(const Make& make) noexcept {
  void* object = nullptr;
  succeeds([&] { object = make(); });
  return object;
}

}  // namespace glidecape
