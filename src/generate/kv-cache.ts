// Keys and values of the tokens that growing sequences have seen, in blocks that are taken as tokens come, and the states of
// layers that keep the same of a sequence however long it is, a row a slot. The decoder hands new keys and values over;
// attention reads the cache's memory through lists of blocks, recurrent kernels read and leave states through segments of
// their own. Pieces of prompts that several sequences begin with are held once (prefix-tree.ts); a model with states has
// none of these, since what such a layer knows at a piece's end is not kept. Memory: cache-memory.ts.

import type { Backend, Segments, Tensor } from "../backend/backend.ts";
import type { DecoderConfig, LayerConfig } from "../models/decoder-config.ts";
import type { KeyValueStore, LayerState } from "../models/pass.ts";
import { dtypeBytes } from "../tensor/dtype.ts";
import { elementCount, rows, tensorBytes, viewOf } from "../tensor/tensor.ts";
import { BugError, invariant, UserError } from "../util/errors.ts";
import { BlockPool } from "./block-pool.ts";
import { blockTokens, CacheMemory } from "./cache-memory.ts";
import { type CacheType, cachedTokenBytes, chooseCacheType } from "./cache-type.ts";
import { KeptUpload } from "./kept-upload.ts";
import { type PrefixNode, PrefixTree } from "./prefix-tree.ts";

/** New tokens of one slot in the coming pass: a segment. A slot's segments follow one another. */
export interface SlotTokens {
  readonly slot: number;
  readonly count: number;
}

export interface CacheOptions {
  readonly slots: number;
  /** Most tokens of one sequence. */
  readonly capacity: number;
  /** f32 where absent. */
  readonly type?: CacheType | "auto";
  /** What keys and values may take; as much as all slots need where absent. */
  readonly memoryBytes?: number;
}

export interface CacheUse {
  /** Blocks that the budget allows, that there is memory for, that sequences hold, and that are kept for those to come. */
  readonly blocks: number;
  readonly heldBlocks: number;
  readonly usedBlocks: number;
  readonly cachedBlocks: number;
  /** Blocks of kept pieces that went to make room, since the beginning. */
  readonly evictedBlocks: number;
  readonly blockTokens: number;
  readonly blockBytes: number;
}

/** Whose numbers a sequence's are: an adapter's, or the base's. */
type Owner = object | undefined;

interface Sequence {
  length: number;
  /** In order; those of `node` and the pieces before it come first. */
  readonly blocks: number[];
  /** The last of its pieces that the tree has. */
  node: PrefixNode | undefined;
}

/** Shapes of a slot's states in a layer. */
function stateShapes({ convolution, delta }: LayerConfig) {
  return {
    inputs: convolution && [convolution.taps, convolution.channels],
    matrices: delta && [delta.valueHeads, delta.keyWidth, delta.valueWidth],
  };
}

const blocksFor = (tokens: number) => Math.ceil(tokens / blockTokens);
const keyOf = (ids: readonly number[]) => ids.join();

export class KeyValueCache implements KeyValueStore {
  readonly capacity: number;
  /** Whether beginnings of prompts are held once. */
  readonly shares: boolean;
  private readonly memory: CacheMemory;
  private readonly pool: BlockPool;
  private readonly tree = new PrefixTree<Owner>();
  private evicted = 0;
  /** By layer; of layers that walk along sequences. A slot's state is read only by a segment that is not its first. */
  private readonly states: readonly Omit<LayerState, "segments">[];
  private readonly sequences: Sequence[];
  private rowIndex: Tensor | undefined;
  private places: Tensor | undefined;
  private stateSegments: Segments | undefined;
  /** Memory of what begin() brings. */
  private readonly uploads: Readonly<Record<"rowIndex" | "table" | "places" | "states", KeptUpload>>;

  /** UserError where the budget holds less than one sequence. */
  constructor(
    private readonly backend: Backend,
    config: DecoderConfig,
    { slots, capacity, type: asked = "f32", memoryBytes }: CacheOptions,
  ) {
    this.capacity = capacity;
    const type = chooseCacheType(backend, config, asked);
    this.memory = new CacheMemory(backend, config, type);
    const { blockBytes } = this.memory;
    const all = slots * blocksFor(capacity);
    const most = memoryBytes === undefined || blockBytes === 0 ? all : Math.floor(memoryBytes / blockBytes);
    if (most < blocksFor(capacity)) {
      throw new UserError(
        `${memoryBytes} bytes for keys and values hold ${most * blockTokens} tokens, and one sequence of the context may have ${capacity} (${blocksFor(capacity) * blockBytes} bytes); give more with --kv-memory, or a smaller --context`,
      );
    }
    this.pool = new BlockPool(most);
    const upload = () => new KeptUpload(backend);
    this.uploads = { rowIndex: upload(), table: upload(), places: upload(), states: upload() };
    const make = (shape: readonly number[]) => {
      const buffer = backend.allocate(tensorBytes(shape, backend.floatType), "activations");
      return viewOf(buffer, shape, backend.floatType);
    };
    this.states = config.layers.map((layer) => {
      const { inputs, matrices } = stateShapes(layer);
      return { inputs: inputs && make([slots, ...inputs]), matrices: matrices && make([slots, ...matrices]) };
    });
    this.shares = this.states.every(({ inputs, matrices }) => !inputs && !matrices);
    this.sequences = Array.from({ length: slots }, () => ({ length: 0, blocks: [], node: undefined }));
  }

  /** Bytes that full slots take. */
  static sizeBytes(
    backend: Backend,
    config: DecoderConfig,
    slots: number,
    capacity: number,
    type: CacheType = "f32",
  ): number {
    return slots * (capacity * cachedTokenBytes(config, type, backend) + stateBytes(backend, config));
  }

  /** Tokens that the slot's sequence has. */
  lengthOf(slot: number): number {
    return this.sequences[slot]!.length;
  }

  /** Blocks that sequences may still take, kept pieces given up. */
  get availableBlocks(): number {
    return this.pool.free + this.tree.unusedBlocks;
  }

  get use(): CacheUse {
    const { unusedBlocks } = this.tree;
    return {
      blocks: this.pool.most,
      heldBlocks: this.memory.blocks,
      usedBlocks: this.pool.most - this.pool.free - unusedBlocks,
      cachedBlocks: unusedBlocks,
      evictedBlocks: this.evicted,
      blockTokens,
      blockBytes: this.memory.blockBytes,
    };
  }

  /** Blocks that a slot's sequence lacks to have so many tokens. */
  lacking(slot: number, tokens: number): number {
    return Math.max(0, blocksFor(tokens) - this.sequences[slot]!.blocks.length);
  }

  /** Blocks of the pieces that begin a text which sequences hold at this moment. */
  heldBlocksOf(owner: Owner, pieces: Iterable<readonly number[]>): number {
    let node = this.tree.root(owner);
    let count = 0;
    for (const ids of pieces) {
      const next = this.tree.find(node, keyOf(ids));
      if (!next || next.uses === 0) break;
      count += next.blocks.length;
      node = next;
    }
    return count;
  }

  /** Where a slot's sequence stands among the beginnings that are held once: equal where two sequences are equal. */
  placeOf(slot: number, owner: Owner): number {
    return (this.sequences[slot]!.node ?? this.tree.root(owner)).id;
  }

  /** Lengthens a sequence that so far is whole pieces by one more, if that is held. */
  adopt(slot: number, owner: Owner, ids: readonly number[]): boolean {
    const sequence = this.sequences[slot]!;
    if (!this.isWhole(sequence)) return false;
    const node = this.tree.find(sequence.node ?? this.tree.root(owner), keyOf(ids));
    if (!node) return false;
    this.tree.hold(node);
    sequence.node = node;
    sequence.blocks.push(...node.blocks);
    sequence.length += ids.length;
    return true;
  }

  /** Holds a piece for others: the tokens [start, start + ids.length) of a sequence, which are in. */
  publish(slot: number, owner: Owner, start: number, ids: readonly number[]): void {
    const sequence = this.sequences[slot]!;
    const before = sequence.node ?? this.tree.root(owner);
    if (this.wholeTokens(sequence) !== start) return;
    const [first, count] = [start / blockTokens, ids.length / blockTokens];
    const known = this.tree.find(before, keyOf(ids));
    const own = sequence.blocks.slice(first, first + count);
    if (known) {
      // Another sequence computed the same.
      sequence.blocks.splice(first, count, ...known.blocks);
      this.pool.give(own);
    }
    sequence.node = known ?? this.tree.add(before, keyOf(ids), own);
    this.tree.hold(sequence.node);
  }

  /** Takes the blocks that a sequence needs to have so many tokens; false, and none taken, where there are too few. */
  reserve(slot: number, tokens: number): boolean {
    if (tokens > this.capacity)
      throw new BugError(`a sequence of ${tokens} tokens in a key/value cache of ${this.capacity}`);
    for (;;) {
      const needed = this.lacking(slot, tokens);
      if (needed > this.availableBlocks) return false;
      while (this.pool.free < needed) this.evict();
      const taken = Array.from({ length: needed }, () => this.pool.take());
      try {
        this.memory.grow(this.pool.size, this.pool.most);
      } catch (error) {
        if (!(error instanceof UserError)) throw error;
        // The device has less than the budget says: from now on that is the budget.
        this.pool.give(taken);
        this.pool.limit(this.memory.blocks);
        continue;
      }
      this.sequences[slot]!.blocks.push(...taken);
      return true;
    }
  }

  /** Prepares the next pass: where its tokens go, and what they may attend to. Their blocks are reserved. */
  begin(tokens: readonly SlotTokens[]): { segments: Segments; starts: readonly number[] } {
    const targets: number[] = [];
    const starts: number[] = [];
    const table: number[] = [];
    const stateTable: number[] = [];
    const places: number[] = [];
    const listOf = new Map<number, number>();
    let maxQueries = 0;
    let maxKeys = 0;
    for (const { slot, count } of tokens) {
      const sequence = this.sequences[slot]!;
      const { length: start, blocks } = sequence;
      const end = start + count;
      invariant(blocksFor(end) <= blocks.length, "tokens without blocks to go to");
      let list = listOf.get(slot);
      if (list === undefined) {
        list = places.length;
        listOf.set(slot, list);
        places.push(...blocks);
      }
      table.push(targets.length, count, list, end);
      stateTable.push(targets.length, count, slot, end);
      for (let at = start; at < end; at++)
        targets.push(blocks[Math.floor(at / blockTokens)]! * blockTokens + (at % blockTokens));
      starts.push(start);
      sequence.length = end;
      maxQueries = Math.max(maxQueries, count);
      maxKeys = Math.max(maxKeys, end);
    }
    const { uploads } = this;
    this.rowIndex = uploads.rowIndex.write(targets);
    this.places = uploads.places.write(places);
    const counts = { count: tokens.length, maxQueries, maxKeys };
    const shape = [tokens.length, 4];
    if (!this.shares) this.stateSegments = { table: uploads.states.write(stateTable, shape), ...counts };
    return { segments: { table: uploads.table.write(table, shape), ...counts }, starts };
  }

  extend(layer: number, k: Tensor, v: Tensor): { k: Tensor; v: Tensor } {
    const held = this.memory.of(layer);
    invariant(held && this.rowIndex, "key/value cache used before begin()");
    // A pass may have rows of no sequence behind those of its slots.
    const own = this.rowIndex.shape[0]!;
    this.backend.storeRows({ x: rows(k, 0, own), index: this.rowIndex, y: held.keys });
    this.backend.storeRows({ x: rows(v, 0, own), index: this.rowIndex, y: held.values });
    return { k: held.keys, v: held.values };
  }

  get blocks(): { readonly places: Tensor; readonly tokens: number } {
    invariant(this.places, "key/value cache used before begin()");
    return { places: this.places, tokens: blockTokens };
  }

  state(layer: number): LayerState {
    const [state, segments] = [this.states[layer], this.stateSegments];
    invariant(state && segments, "a layer's state used before begin()");
    return { ...state, segments };
  }

  /** Forgets a slot's sequence; its pieces that others may begin with stay. */
  clear(slot: number): void {
    const { node, blocks } = this.sequences[slot]!;
    this.pool.give(blocks.slice(node?.depth ?? 0));
    if (node) this.tree.release(node);
    this.sequences[slot] = { length: 0, blocks: [], node: undefined };
  }

  /** Gives up the pieces of an owner that no sequence belongs to any more. */
  forget(owner: Owner): void {
    this.pool.give(this.tree.forget(owner));
  }

  /** Gives up all pieces that no sequence holds. */
  forgetUnused(): void {
    this.pool.give(this.tree.clear());
  }

  /** Tokens of the pieces that the tree has of a sequence. */
  private wholeTokens({ node }: Sequence): number {
    return (node?.depth ?? 0) * blockTokens;
  }

  private isWhole(sequence: Sequence): boolean {
    return (
      sequence.length === this.wholeTokens(sequence) &&
      sequence.blocks.length * blockTokens === sequence.length
    );
  }

  private evict(): void {
    const blocks = this.tree.evict();
    if (!blocks) throw new BugError("a key/value cache without a block to give up");
    this.evicted += blocks.length;
    this.pool.give(blocks);
  }

  free(): void {
    for (const upload of Object.values(this.uploads)) upload.free();
    this.memory.free();
    const states = this.states.flatMap(({ inputs, matrices }) => [inputs, matrices]);
    for (const tensor of states) if (tensor) this.backend.free(tensor.buffer);
  }
}

/** Bytes of a slot's states. */
function stateBytes({ floatType }: Backend, config: DecoderConfig): number {
  const elements = config.layers
    .flatMap((layer) => Object.values(stateShapes(layer)))
    .reduce((sum, shape) => sum + (shape ? elementCount(shape) : 0), 0);
  return elements * dtypeBytes[floatType];
}
