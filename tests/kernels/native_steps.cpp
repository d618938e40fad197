// Drives the C ABI under sanitizers: buffers of exactly the promised size, odd shapes, weights in
// bfloat16 and in blocks of all kinds, two models on two threads, attention alone, drafts, a fork. Built by
// test_sanitizers.py together with the native sources.
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <iterator>
#include <random>
#include <thread>
#include <vector>

#include "draw.h"
#include "glide.h"
#include "paged_attention.h"

namespace {

using Bits = std::vector<uint16_t>;
using Floats = std::vector<float>;
using Ints = std::vector<int64_t>;

// A matrix in exactly the bytes its rows take; or of two types.
struct Weight {
  struct Part {
    std::vector<uint8_t> bytes;
    int32_t type, count;
  };
  std::vector<Part> parts;

  operator GlidecapeMatrix() const {
    GlidecapeMatrix matrix{};
    for (size_t i = 0; i < parts.size(); ++i)
      matrix.parts[i] = {parts[i].bytes.data(), parts[i].type, parts[i].count};
    return matrix;
  }
};

// How a model's matrices come: all in bfloat16, or in blocks of one or two kinds, in turn.
enum class Form { kPlain, kBlocks };

// A type's blocks, and where their half-precision numbers are.
struct Blocks {
  int32_t type;
  int inputs, bytes, scale, offset;  // offset: -1 for none
};
constexpr Blocks kBlocks[] = {
    {GLIDECAPE_Q4_1, 32, 20, 0, 2},    {GLIDECAPE_Q8_0, 32, 34, 0, -1},
    {GLIDECAPE_Q5_0, 32, 22, 0, -1},   {GLIDECAPE_Q5_1, 32, 24, 0, 2},
    {GLIDECAPE_Q4_0, 32, 18, 0, -1},   {GLIDECAPE_IQ4_NL, 32, 18, 0, -1},
    {GLIDECAPE_Q4_K, 256, 144, 0, 2},  {GLIDECAPE_Q5_K, 256, 176, 0, 2},
    {GLIDECAPE_Q6_K, 256, 210, 208, -1}};
constexpr int kSmallBlocks = 6;  // the first of them, of 32 inputs

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
  Weight weight(Form form, size_t outputs, size_t inputs) {
    if (form == Form::kPlain) return of_type(GLIDECAPE_BF16, outputs, inputs);
    const auto next_type = [&] { return kBlocks[count_++ % kSmallBlocks].type; };
    if (outputs <= 16) return of_type(next_type(), outputs, inputs);
    Weight weight = of_type(next_type(), 16, inputs);
    weight.parts.push_back(of_type(next_type(), outputs - 16, inputs).parts[0]);
    return weight;
  }
  Weight of_type(int32_t type, size_t outputs, size_t inputs) {
    if (type == GLIDECAPE_BF16) {
      const Bits all = bits(outputs * inputs);
      const auto* bytes = reinterpret_cast<const uint8_t*>(all.data());
      return {{{{bytes, bytes + 2 * all.size()}, type, static_cast<int32_t>(outputs)}}};
    }
    const Blocks& blocks = *std::find_if(std::begin(kBlocks), std::end(kBlocks),
                                         [&](const Blocks& some) { return some.type == type; });
    std::vector<uint8_t> bytes(outputs * (inputs / blocks.inputs) * blocks.bytes);
    for (size_t i = 0; i < bytes.size(); ++i) {
      const int at = static_cast<int>(i % blocks.bytes);
      bytes[i] = static_cast<uint8_t>(engine());
      // The upper bytes: K-quants have integers to multiply these with.
      const bool small = blocks.inputs == 256;
      if (at == blocks.scale + 1) bytes[i] = small ? 0x04 : 0x18;  // 0.00006 … or 0.002 …
      if (blocks.offset >= 0 && at == blocks.offset + 1) bytes[i] = small ? 0x10 : 0xa4;  // 0.0005, -0.016 …
    }
    return {{{bytes, type, static_cast<int32_t>(outputs)}}};
  }

 private:
  int count_ = 0;
};

class Model {
 public:
  Model(Form form, GlidecapeShape shape, int threads, int window, int block_size)
      : form_(form), shape_(shape), block_size_(block_size),
        embedding_(source_.bits(kVocabulary * shape.hidden)), decoder_(create(threads)) {
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
  Bits step(int context, int nodes, bool star) {
    Ints positions, slots, contexts{context}, counts{nodes};
    std::vector<uint8_t> ancestors;
    for (int i = 0; i < nodes; ++i) {
      positions.push_back(context + (star ? i > 0 : i));
      const int at = context + i;
      slots.push_back(table_[at / block_size_] * block_size_ + at % block_size_);
      for (int j = 0; j < nodes; ++j) ancestors.push_back(j == i || j == 0);
    }
    const Ints token_ids(nodes, kVocabulary - 1);
    Bits hidden(nodes * shape_.hidden);
    std::vector<GlidecapeCache> caches;
    for (size_t i = 0; i < keys_.size(); ++i) caches.push_back({keys_[i].data(), values_[i].data()});
    const GlidecapeStep step{nodes, 1, static_cast<int>(table_.size()), block_size_, star ? nodes : 0,
                             positions.data(), slots.data(), table_.data(), contexts.data(),
                             counts.data(), star ? ancestors.data() : nullptr};
    if (!glidecape_decoder_run(decoder_, &step, caches.data(), token_ids.data(), hidden.data()))
      std::abort();
    return hidden;
  }

  static constexpr int kTokens = 60, kVocabulary = 3;

 private:
  // The context that models of two layers were trained with is short of what they see.
  void* create(int threads) {
    const Floats norm = source_.floats(shape_.hidden), frequencies = source_.floats(shape_.head_dim / 2);
    const int trained = shape_.num_layers == 2 ? 20 : 0;
    const GlidecapeEnds ends{embedding_.data(), norm.data(), {frequencies.data(), 1.0f, 1e4f, 2.0f, trained}};
    return glidecape_decoder_create(&shape_, &ends, form_ == Form::kBlocks, threads);
  }

  void set_layer(int index, int q, int kv, int window) {
    const auto& s = shape_;
    const Floats hidden_norm = source_.floats(s.hidden), head_norm = source_.floats(s.head_dim);
    const Weight qkv = source_.weight(form_, q + 2 * kv, s.hidden);
    const Weight output = source_.weight(form_, s.hidden, q);
    const Weight gate_up = source_.weight(form_, 2 * s.inner, s.hidden);
    const Weight down = source_.weight(form_, s.hidden, s.inner);
    const Floats qkv_bias = source_.floats(q + 2 * kv), output_bias = source_.floats(s.hidden);
    const Floats gate_up_bias = source_.floats(2 * s.inner);
    const GlidecapeLayer layer{hidden_norm.data(), hidden_norm.data(), head_norm.data(),
                               head_norm.data(), qkv, output, gate_up, down,
                               qkv_bias.data(), output_bias.data(), gate_up_bias.data(), nullptr,
                               window};
    if (!glidecape_decoder_set_layer(decoder_, index, &layer)) std::abort();
  }

  Source source_;
  Form form_;
  GlidecapeShape shape_;
  int block_size_;
  const Bits embedding_;
  void* decoder_;
  std::vector<Bits> keys_, values_;
  Ints table_;
};

void run_steps(Form form, GlidecapeShape shape, int threads, int window, int block_size) {
  Model model(form, shape, threads, window, block_size);
  model.step(0, 17, false);
  model.step(17, 8, true);
  model.step(17, 1, false);
  model.step(Model::kTokens - 5, 5, false);
  model.step(0, 50, false);
  model.step(Model::kTokens - 2, 2, true);
}

void run_linear(int32_t type, int outputs, int inputs, int rows, int threads) {
  Source source;
  const Weight weight = source.of_type(type, outputs, inputs);
  const GlidecapeMatrix matrix = weight;
  void* linear = glidecape_linear_create(&matrix, outputs, inputs, threads);
  const Bits x = source.bits(rows * inputs);
  Floats y(static_cast<size_t>(rows) * outputs);
  Bits rounded(y.size()), again = rounded;
  void *const twice[] = {linear, linear}, *to[] = {y.data()}, *to_both[] = {rounded.data(), again.data()};
  if (!glidecape_linear_run(twice, 1, x.data(), rows, 0, to)) std::abort();
  if (!glidecape_linear_run(twice, 2, x.data(), rows, 1, to_both)) std::abort();
  if (rounded != again) std::abort();
  glidecape_linear_destroy(linear);
}

// Two chains of different depths over a pool of exactly the blocks they need, and a forward over a
// root with two children.
void run_glide(Form form, int hidden_size, int threads, int glimpsed, int target_hidden, int tokens) {
  Source source;
  const GlidecapeShape self{1, hidden_size, 32, 3, 1, 32, 0, 1e-5f};
  const Floats frequencies = source.floats(32);  // half of the larger head_dim
  const GlidecapeGlideShape shape{self, 4, 2, 64, glimpsed, tokens, target_hidden, 2,
                                  target_hidden % 32 == 0, 2,
                                  {frequencies.data(), 1.0f, 0, 0, 0}, {frequencies.data(), 0.5f, 0, 0, 0}};
  const int width = glimpsed * 4 * 64, kv = 32, cross_kv = 2 * 64, slots = 12;
  const Floats norm = source.floats(hidden_size), delays = source.floats(2 * hidden_size);
  const Floats bias = source.floats(width);
  const Weight qkv = source.weight(form, 5 * 32, hidden_size);
  const Weight output = source.weight(form, hidden_size, 96);
  const Weight gate_up = source.weight(form, 64, hidden_size);
  const Weight down = source.weight(form, hidden_size, 32);
  const Weight query = source.weight(form, width, hidden_size);
  const Weight cross_output = source.weight(form, hidden_size, width);
  const Weight head = source.weight(form, tokens, hidden_size);
  // Where the target's hidden state allows it, what is looked up is a hint too.
  const int hint_width = target_hidden + (shape.copy_hint ? hidden_size : 0);
  const Weight projection = source.weight(form, hidden_size, hint_width);
  const Floats matches = source.floats(3 * hidden_size);
  const Bits embedding = source.bits(9 * hidden_size);
  const Ints ids(tokens, 8);
  const std::vector<int32_t> windows(glimpsed, 3);
  const GlidecapeLayer layer{norm.data(), norm.data(), nullptr, nullptr, qkv, output, gate_up, down,
                             nullptr, nullptr, nullptr, nullptr, 0};
  const GlidecapeGlideWeights weights{
      layer, windows.data(), norm.data(), query, bias.data(), cross_output, norm.data(),
      head, ids.data(), embedding.data(), projection, delays.data(), matches.data()};
  void* glide = glidecape_glide_create(&shape, &weights, threads);
  Bits keys = source.bits(slots * kv), values = keys;
  std::vector<Bits> target(2 * glimpsed, source.bits(slots * cross_kv));
  std::vector<GlidecapeCache> read;
  for (int i = 0; i < glimpsed; ++i) read.push_back({target[2 * i].data(), target[2 * i + 1].data()});
  const GlidecapeGlideCaches caches{{keys.data(), values.data()}, read.data()};
  const Ints roots{1, 8}, starts{3, 1}, depths{4, 1}, table{0, 2, 1, 1}, contexts = starts;
  const Bits hidden = source.bits(3 * target_hidden);
  Ints candidates(4 * 2 * tokens);
  // The first sequence has two tokens of its own, the second none.
  const Ints own_ids{5, 7}, own_counts{2, 0};
  const Bits own_rows = source.bits(2 * hidden_size);
  const int64_t* const all_ids[] = {own_ids.data(), nullptr};
  const uint16_t* const all_rows[] = {own_rows.data(), nullptr};
  const GlidecapeOwnTokens own{2, own_counts.data(), all_ids, all_rows};
  Floats confidences(candidates.size()), logits(3 * (tokens + own.most));
  Floats least(2, 0.0f);
  const Floats offsets(3, 0.1f), slopes(3, 1.0f);
  Ints drafted(2);
  const Ints copied{8, -1, 0, 3, -1, -1, 8, 8}, num_equal{1, 0, 2, 9, 0, 0, 1, 1};
  GlidecapeRound round{2, 2, 4, tokens, roots.data(), starts.data(), depths.data(), table.data(),
                             nullptr, nullptr, hidden.data(), &own,
                             copied.data(), num_equal.data(), least.data(), offsets.data(), slopes.data(), 3,
                             candidates.data(), confidences.data(), drafted.data()};
  if (!glidecape_glide_draft(glide, &round, &caches)) std::abort();
  if (drafted != Ints{4, 1}) std::abort();
  least[0] = 2.0f;  // more than any survival: the first token ends the chain
  if (!glidecape_glide_draft(glide, &round, &caches)) std::abort();
  if (drafted != Ints{1, 1}) std::abort();
  const Ints one{3}, positions{3, 4, 4}, at{3, 8, 9}, tree_ids{1, 2, 8};
  const std::vector<uint8_t> ancestors{1, 0, 0, 1, 1, 0, 1, 0, 1};
  GlidecapeGlideStep step{{3, 1, 2, 4, 3, positions.data(), at.data(), table.data(), one.data(), one.data(),
                           ancestors.data()},
                          tree_ids.data(), one.data(), hidden.data(), 5, &own, nullptr, nullptr};
  if (!glidecape_glide_logits(glide, &step, &caches, logits.data())) std::abort();
  step.copied = copied.data(), step.num_equal = num_equal.data();
  if (!glidecape_glide_logits(glide, &step, &caches, logits.data())) std::abort();
  if (!glidecape_glide_fill(glide, &step, &caches)) std::abort();
  const Ints behind_counts{2, 1}, behind{1, 8, 2};
  round.behind_counts = behind_counts.data(), round.behind = behind.data();
  round.own = nullptr;
  if (!glidecape_glide_draft(glide, &round, &caches)) std::abort();
  glidecape_glide_destroy(glide);
}

// A tree and a chain behind `context` tokens; buffers end where the last head of the last slot does.
template <class Number>
void run_attention(int head_dim, int value_dim, int context, int threads, bool has_rules) {
  constexpr int kHeads = 6, kKvHeads = 2, kNodes = 9, kRows = 2 * kNodes, kBlock = 8;
  const int num_blocks = (context + kNodes + kBlock - 1) / kBlock, num_slots = 2 * num_blocks * kBlock;
  const auto numbers = [](size_t count) { return std::vector<Number>(count, Number{1}); };
  const auto queries = numbers(kRows * kHeads * head_dim), keys = numbers(kRows * kKvHeads * head_dim);
  const auto values = numbers(kRows * kKvHeads * value_dim);
  auto key_cache = numbers(num_slots * kKvHeads * head_dim), value_cache = key_cache;
  auto out = numbers(kRows * kHeads * value_dim);
  Ints positions, slots, table;
  std::vector<uint8_t> ancestors;
  for (int i = 0; i < 2 * num_blocks; ++i) table.push_back(i);
  for (int row = 0; row < kRows; ++row) {
    const bool in_tree = row < kNodes;
    const int node = row % kNodes;
    positions.push_back(context + (in_tree ? node > 0 : node));
    slots.push_back((in_tree ? 0 : num_blocks * kBlock) + context + node);
    for (int i = 0; i < kNodes; ++i) ancestors.push_back(in_tree ? i == 0 || i == node : i <= node);
  }
  const Ints contexts{context, context}, counts{kNodes, kNodes};
  const GlidecapeStep step{kRows, 2, num_blocks, kBlock, kNodes, positions.data(), slots.data(), table.data(),
                           contexts.data(), counts.data(), ancestors.data()};
  const Floats sinks(kHeads, 0.5f);
  GlidecapeAttention layer{sizeof(Number) == 4, kHeads, kKvHeads, head_dim, value_dim, 0.1f, 0, 0, 0, nullptr};
  if (has_rules) layer.softcap = 3, layer.window = 20, layer.chunk = 16, layer.sinks = sinks.data();
  // Queries as rows of heads, keys and values as heads of rows.
  const GlidecapeAttentionCall call{{queries.data(), kHeads * head_dim, head_dim},
                                    {keys.data(), head_dim, kRows * head_dim},
                                    {values.data(), value_dim, kRows * value_dim},
                                    key_cache.data(), value_cache.data(), out.data()};
  void* attention = glidecape_attention_create(threads);
  if (!glidecape_attention_begin(attention, &step)) std::abort();
  for (int i = 0; i < 2; ++i)
    if (!glidecape_attention_run(attention, &step, &layer, &call)) std::abort();
  glidecape_attention_destroy(attention);
}

void run_norm(int dim) {
  Source source;
  const Bits x = source.bits(3 * dim);
  const Floats weight = source.floats(dim), wide = source.floats(3 * dim);
  Bits y(x.size());
  Floats wide_y(wide.size());
  if (!glidecape_rms_norm(x.data(), weight.data(), 3, dim, 1e-5f, 0, y.data())) std::abort();
  if (!glidecape_rms_norm(wide.data(), weight.data(), 3, dim, 1e-5f, 1, wide_y.data())) std::abort();
}

// A row whose width is no multiple of 16, and one with NaN behind the last whole vector.
void run_best(int width) {
  Floats logits(2 * width, 1.0f);
  logits[width - 1] = 2.0f;
  logits[2 * width - 1] = NAN;
  Ints best(2);
  if (!glidecape_best(logits.data(), 2, width, best.data())) std::abort();
  if (best != Ints{width - 1, -1}) std::abort();
}

// Rows of an odd width in exactly their bytes, by each way of keeping fewer tokens; one has NaN.
void run_draw(int width) {
  const GlidecapeDraw how[] = {{1.0f, 0, 1.0f, 0.0f, 0.0}, {0.5f, 1, 1.0f, 0.0f, 0.99},
                               {2.0f, 0, 0.5f, 0.1f, 0.5}, {1.0f, 0, 1.0f, 0.0f, 0.5}};
  constexpr int kRows = std::size(how);
  Floats logits(kRows * width, -INFINITY);
  for (int row = 0; row < kRows; ++row) logits[row * width + width - 1] = row < kRows - 1 ? 1.0f : NAN;
  for (const int rows : {1, kRows}) {
    Ints drawn(rows);
    if (!glidecape_draw(logits.data() + (kRows - rows) * width, rows, width, how + kRows - rows, drawn.data()))
      std::abort();
    for (int row = 0; row < rows; ++row)
      if (drawn[row] != (row < rows - 1 ? width - 1 : width)) std::abort();
  }
}

void run_in_child() {
  const pid_t child = fork();
  if (child == 0) {
    alarm(20);  // a child that waits for threads it does not have would wait forever
    run_linear(GLIDECAPE_BF16, 70, 6, 3, 2);
    run_linear(GLIDECAPE_Q4_1, 70, 64, 3, 2);
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
  const GlidecapeShape gqa_64{2, 64, 96, 5, 1, 32, 1, 1e-5f}, mha_96{3, 96, 32, 2, 2, 64, 0, 1e-5f};
  for (const int threads : {1, 3}) {
    run_steps(Form::kPlain, gqa, threads, 7, 3);
    run_steps(Form::kPlain, mha, threads, 0, 16);
    run_steps(Form::kBlocks, gqa_64, threads, 7, 3);
    run_steps(Form::kBlocks, mha_96, threads, 0, 16);
    run_linear(GLIDECAPE_BF16, 1, 2, 1, threads);
    run_linear(GLIDECAPE_BF16, 130, 10, 13, threads);
    for (const Blocks& blocks : kBlocks) {
      run_linear(blocks.type, 1, blocks.inputs, 1, threads);
      run_linear(blocks.type, 130, 3 * blocks.inputs, 37, threads);
    }
    for (const bool has_rules : {false, true}) {
      run_attention<uint16_t>(80, 80, 30, threads, has_rules);
      run_attention<float>(37, 37, 30, threads, has_rules);
      run_attention<uint16_t>(8, 5, 0, threads, has_rules);
      run_attention<float>(64, 40, 200, threads, has_rules);  // enough for all threads
    }
    run_glide(Form::kPlain, 48, threads, 1, 0, 7);
    run_glide(Form::kPlain, 48, threads, 3, 80, 32);
    run_glide(Form::kBlocks, 64, threads, 1, 0, 7);
    run_glide(Form::kBlocks, 64, threads, 3, 96, 32);
  }
  for (const int width : {1, 16, 37}) run_best(width), run_draw(width);
  for (const int dim : {16, 48, 64}) run_norm(dim);
  std::thread other([&] { run_steps(Form::kBlocks, gqa_64, 2, 1, 1); });
  run_steps(Form::kPlain, mha, 3, 20, 4);
  other.join();
  if (count > 1) run_in_child();
  std::puts("done");
}
