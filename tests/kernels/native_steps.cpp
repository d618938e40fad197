// Drives the C ABI under sanitizers: buffers of exactly the promised size, odd shapes, two models on
// two threads, drafts, a fork. Built by test_sanitizers.py together with the native sources.
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

#include "glide.h"

namespace {

using Bits = std::vector<uint16_t>;
using Floats = std::vector<float>;
using Ints = std::vector<int64_t>;

GlidecapeMatrix plain(const Bits& rows) { return {rows.data(), GLIDECAPE_BF16}; }

struct Source {
  std::mt19937 engine{1};

  float next() { return std::uniform_real_distribution<float>(-0.2f, 0.2f)(engine); }
  Floats floats(size_t size) {
    Floats all(size);
    for (auto& x : all) x = next();
    return all;
  }
  Bits bits(size_t size) {
    Bits all(size);
    for (auto& x : all) {
      const float value = next();
      uint32_t word;
      std::memcpy(&word, &value, sizeof word);
      x = static_cast<uint16_t>(word >> 16);
    }
    return all;
  }
};

class Model {
 public:
  Model(GlidecapeShape shape, int threads, int window, int block_size)
      : shape_(shape), block_size_(block_size), decoder_(glidecape_decoder_create(&shape, 0, threads)) {
    const int q = shape.num_heads * shape.head_dim, kv = shape.num_kv_heads * shape.head_dim;
    for (int i = 0; i < shape.num_layers; ++i) set_layer(i, q, kv, i % 2 ? 0 : window);
    const size_t tokens = (kTokens + block_size - 1) / block_size * block_size;
    for (int i = 0; i < shape.num_layers; ++i) {
      keys_.push_back(source_.bits(tokens * kv));
      values_.push_back(source_.bits(tokens * kv));
    }
    // Block sizes that divide kTokens: the last token lies in the very last slot of the pool.
    for (size_t i = 0; i < tokens / block_size; ++i) table_.push_back(i);
    if (table_.size() > 2) std::swap(table_[0], table_[1]);
  }
  ~Model() { glidecape_decoder_destroy(decoder_); }

  // A chain of `nodes` after `context` tokens; or a root with nodes - 1 children.
  Floats step(int context, int nodes, bool star) {
    Ints positions, slots, contexts{context}, counts{nodes};
    std::vector<uint8_t> ancestors;
    for (int i = 0; i < nodes; ++i) {
      positions.push_back(context + (star ? i > 0 : i));
      const int at = context + i;
      slots.push_back(table_[at / block_size_] * block_size_ + at % block_size_);
      for (int j = 0; j < nodes; ++j) ancestors.push_back(j == i || j == 0);
    }
    const Floats cos = source_.floats(nodes * shape_.head_dim), sin = cos;
    Floats x = source_.floats(nodes * shape_.hidden);
    std::vector<GlidecapeCache> caches;
    for (size_t i = 0; i < keys_.size(); ++i) caches.push_back({keys_[i].data(), values_[i].data()});
    const GlidecapeStep step{nodes, 1, static_cast<int>(table_.size()), block_size_, star ? nodes : 0,
                             positions.data(), slots.data(), table_.data(), contexts.data(),
                             counts.data(), star ? ancestors.data() : nullptr, cos.data(), sin.data()};
    if (!glidecape_decoder_run(decoder_, &step, caches.data(), x.data())) std::abort();
    return x;
  }

  static constexpr int kTokens = 60;

 private:
  void set_layer(int index, int q, int kv, int window) {
    const auto& s = shape_;
    const Floats hidden_norm = source_.floats(s.hidden), head_norm = source_.floats(s.head_dim);
    const Bits qkv = source_.bits((q + 2 * kv) * s.hidden), output = source_.bits(s.hidden * q);
    const Bits gate_up = source_.bits(2 * s.inner * s.hidden), down = source_.bits(s.hidden * s.inner);
    const Floats qkv_bias = source_.floats(q + 2 * kv), output_bias = source_.floats(s.hidden);
    const Floats gate_up_bias = source_.floats(2 * s.inner);
    const GlidecapeLayer layer{hidden_norm.data(), hidden_norm.data(), head_norm.data(),
                               head_norm.data(), plain(qkv), plain(output), plain(gate_up),
                               plain(down), qkv_bias.data(), output_bias.data(),
                               gate_up_bias.data(), nullptr, window};
    if (!glidecape_decoder_set_layer(decoder_, index, &layer)) std::abort();
  }

  Source source_;
  GlidecapeShape shape_;
  int block_size_;
  void* decoder_;
  std::vector<Bits> keys_, values_;
  Ints table_;
};

void run_steps(GlidecapeShape shape, int threads, int window, int block_size) {
  Model model(shape, threads, window, block_size);
  model.step(0, 17, false);
  model.step(17, 8, true);
  model.step(17, 1, false);
  model.step(Model::kTokens - 5, 5, false);
  model.step(0, 50, false);
  model.step(Model::kTokens - 2, 2, true);
}

void run_linear(int outputs, int inputs, int rows, int threads) {
  Source source;
  const Bits weight = source.bits(outputs * inputs);
  const GlidecapeMatrix matrix = plain(weight);
  void* linear = glidecape_linear_create(&matrix, outputs, inputs, threads);
  const Bits x = source.bits(rows * inputs);
  Floats y(static_cast<size_t>(rows) * outputs);
  if (!glidecape_linear_run(linear, x.data(), rows, y.data())) std::abort();
  glidecape_linear_destroy(linear);
}

// Two chains of different depths over a pool of exactly the blocks they need, and a forward over a
// root with two children.
void run_glide(int threads, int glimpsed, int target_hidden, int tokens) {
  Source source;
  const GlidecapeShape self{1, 48, 32, 3, 1, 32, 0, 1e-5f};
  const GlidecapeGlideShape shape{self, 4, 2, 64, glimpsed, tokens, target_hidden, 2};
  const int width = glimpsed * 4 * 64, kv = 32, cross_kv = 2 * 64, slots = 12;
  const Floats norm = source.floats(48), delays = source.floats(2 * 48), bias = source.floats(width);
  const Bits qkv = source.bits(5 * 32 * 48), output = source.bits(48 * 96), down = source.bits(48 * 32);
  const Bits gate_up = source.bits(64 * 48), query = source.bits(width * 48), head = source.bits(tokens * 48);
  const Bits embedding = source.bits(9 * 48), projection = source.bits(48 * target_hidden);
  const Ints ids(tokens, 8);
  const std::vector<int32_t> windows(glimpsed, 3);
  const GlidecapeLayer layer{norm.data(), norm.data(), nullptr, nullptr, plain(qkv), plain(output),
                             plain(gate_up), plain(down), nullptr, nullptr, nullptr, nullptr, 0};
  const GlidecapeGlideWeights weights{
      layer, windows.data(), norm.data(), plain(query), bias.data(), plain(query), norm.data(),
      plain(head), ids.data(), embedding.data(), plain(projection), delays.data()};
  void* glide = glidecape_glide_create(&shape, &weights, threads);
  Bits keys = source.bits(slots * kv), values = keys;
  std::vector<Bits> target(2 * glimpsed, source.bits(slots * cross_kv));
  std::vector<GlidecapeCache> read;
  for (int i = 0; i < glimpsed; ++i) read.push_back({target[2 * i].data(), target[2 * i + 1].data()});
  const GlidecapeGlideCaches caches{{keys.data(), values.data()}, read.data()};
  const Ints roots{1, 8}, starts{3, 1}, depths{4, 1}, table{0, 2, 1, 1}, contexts = starts;
  const Floats cos = source.floats(8 * 32), cross = source.floats(8 * 64);
  const Bits hidden = source.bits(3 * target_hidden);
  Ints candidates(4 * 2 * tokens);
  Floats confidences(candidates.size()), logits(3 * tokens);
  const GlidecapeRound round{2, 2, 4, tokens, roots.data(), starts.data(), depths.data(), table.data(),
                             cos.data(), cos.data(), cross.data(), cross.data(), hidden.data(),
                             candidates.data(), confidences.data()};
  if (!glidecape_glide_draft(glide, &round, &caches)) std::abort();
  const Ints one{3}, positions{3, 4, 4}, at{3, 8, 9}, tree_ids{1, 2, 8};
  const std::vector<uint8_t> ancestors{1, 0, 0, 1, 1, 0, 1, 0, 1};
  GlidecapeGlideStep step{{3, 1, 2, 4, 3, positions.data(), at.data(), table.data(), one.data(), one.data(),
                           ancestors.data(), cos.data(), cos.data()},
                          tree_ids.data(), one.data(), cross.data(), cross.data(), hidden.data(), 5};
  if (!glidecape_glide_logits(glide, &step, &caches, logits.data())) std::abort();
  if (!glidecape_glide_fill(glide, &step, &caches)) std::abort();
  glidecape_glide_destroy(glide);
}

void run_in_child() {
  const pid_t child = fork();
  if (child == 0) {
    alarm(20);  // a child that waits for threads it does not have would wait forever
    run_linear(70, 6, 3, 2);
    _exit(0);
  }
  int status = 1;
  waitpid(child, &status, 0);
  if (status != 0) std::abort();
}

}  // namespace

// An argument asks for the fork too, which the thread sanitizer can't follow.
int main(int count, char**) {
  const GlidecapeShape gqa{2, 48, 96, 5, 1, 32, 1, 1e-5f}, mha{3, 80, 32, 2, 2, 64, 0, 1e-5f};
  for (const int threads : {1, 3}) {
    run_steps(gqa, threads, 7, 3);
    run_steps(mha, threads, 0, 16);
    run_linear(1, 2, 1, threads);
    run_linear(130, 10, 13, threads);
    run_glide(threads, 1, 0, 7);
    run_glide(threads, 3, 80, 32);
  }
  std::thread other([&] { run_steps(gqa, 2, 1, 1); });
  run_steps(mha, 3, 20, 4);
  other.join();
  if (count > 1) run_in_child();
  std::puts("done");
}
