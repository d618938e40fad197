// Which slots each row of a step sees: worked out once per step, used by every layer.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "decoder.h"

namespace glidecape {

// A node sees one key per position: committed positions [0, context) through its block table, later
// ones along its path in the step's tree.
struct NodeKeys {
  const int64_t* committed;  // slot by position
  const int64_t* slots;      // of the sequence's nodes in this step
  const int* path;           // node by position - context; null in a chain: one node per position
  int num_nodes;
  int context;
  int first, last;  // positions seen, both included

  bool is_chain() const { return path == nullptr; }
  int64_t slot(int position) const {
    if (position < context) return committed[position];
    return slots[path ? path[position - context] : position - context];
  }
};

// How far back a row sees; 0: without limit.
struct Sight {
  int window = 0;  // its last positions, its own included
  int chunk = 0;   // those of its own chunk: [c * chunk, (c + 1) * chunk)
};

// Neighbouring rows of one sequence: their attention reads the sequence's KV together.
struct RowBlock {
  int first, count;
};

class VisibleSlots {
 public:
  static constexpr int kRows = 8;

  // Committed tokens, ancestors and itself.
  void find(const GlidecapeStep& step) {
    clear();
    for (int i = 0, row = 0; i < step.num_sequences; row += static_cast<int>(step.node_counts[i++]))
      add_sequence(step, i, row, step.context_lens[i], true);
  }

  // The first visible[i] tokens of sequence i, and not the nodes themselves. A chain whose rows all
  // end there.
  void find_committed(const GlidecapeStep& step, const int64_t* visible) {
    clear();
    for (int i = 0, row = 0; i < step.num_sequences; row += static_cast<int>(step.node_counts[i++]))
      add_sequence(step, i, row, visible[i], false);
  }

  const std::vector<RowBlock>& blocks() const { return blocks_; }

  NodeKeys keys(const GlidecapeStep& step, int row, const Sight& sight) const {
    const Row& r = rows_[row];
    const int last = r.context + r.path_length - 1, position = static_cast<int>(step.positions[row]);
    // A row sees at least one token, also where a draft has run ahead of a window's end.
    int begin = sight.window ? position - sight.window + 1 : 0;
    if (sight.chunk) begin = std::max(begin, position / sight.chunk * sight.chunk);
    return {committed_.data() + r.committed, step.slots + r.first_row,
            r.path < 0 ? nullptr : paths_.data() + r.path, r.num_nodes, r.context,
            std::clamp(begin, 0, last), last};
  }

 private:
  struct Row {
    int64_t committed;  // index into committed_
    int64_t path;       // index into paths_; -1: a chain
    int first_row, num_nodes, context, path_length;
  };

  void clear() {
    committed_.clear();
    paths_.clear();
    rows_.clear();
    blocks_.clear();
  }

  void add_sequence(const GlidecapeStep& step, int sequence, int first_row, int64_t visible,
                    bool own_nodes) {
    const int context = static_cast<int>(visible);
    const int nodes = static_cast<int>(step.node_counts[sequence]);
    const int64_t* table = step.block_tables + static_cast<int64_t>(sequence) * step.max_blocks;
    const int64_t committed = static_cast<int64_t>(committed_.size());
    for (int start = 0; start < context; start += step.block_size, ++table)
      for (int i = 0; i < std::min(step.block_size, context - start); ++i)
        committed_.push_back(*table * step.block_size + i);
    const bool chain = !own_nodes || is_chain(step, first_row, nodes);
    for (int node = 0; node < nodes; ++node) {
      Row row{committed, -1, first_row, nodes, context, own_nodes ? node + 1 : 0};
      if (!chain) add_path(step, first_row, node, row);
      rows_.push_back(row);
      if (node % kRows == 0)
        blocks_.push_back({first_row + node, std::min(kRows, nodes - node)});
    }
  }

  // Whether each node sees all before it and itself.
  static bool is_chain(const GlidecapeStep& step, int first_row, int nodes) {
    for (int node = 0; step.ancestors && node < nodes; ++node)
      if (std::memchr(ancestors(step, first_row + node), 0, node + 1)) return false;
    return true;
  }

  static const uint8_t* ancestors(const GlidecapeStep& step, int row) {
    return step.ancestors + static_cast<int64_t>(row) * step.max_nodes;
  }

  void add_path(const GlidecapeStep& step, int first_row, int node, Row& row) {
    row.path = static_cast<int64_t>(paths_.size());
    const uint8_t* seen = ancestors(step, first_row + node);
    for (int i = 0; i <= node; ++i)
      if (seen[i]) paths_.push_back(i);
    row.path_length = static_cast<int>(paths_.size() - row.path);
  }

  std::vector<int64_t> committed_;
  std::vector<int> paths_;
  std::vector<Row> rows_;
  std::vector<RowBlock> blocks_;
};

}  // namespace glidecape
