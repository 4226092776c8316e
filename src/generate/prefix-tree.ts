// Beginnings of prompts whose keys and values are in the cache: a tree of pieces of tokens, one tree for the base and for
// each adapter. A piece's numbers are a function of the tokens up to its end, since prompts enter in pieces that are cut
// by a grid of theirs (turns.ts): who finds a piece here has to the bit what it would have computed. Pieces that no
// sequence uses stay until their blocks are needed, and then the one that was used longest ago goes first.

import { invariant } from "../util/errors.ts";

export interface PrefixNode {
  /** Tells nodes apart. */
  readonly id: number;
  readonly parent: PrefixNode | undefined;
  /** The piece's tokens, as its parent knows it. */
  readonly key: string;
  readonly blocks: readonly number[];
  readonly children: Map<string, PrefixNode>;
  /** Blocks up to its end. */
  readonly depth: number;
  /** Sequences that hold it. */
  uses: number;
}

export class PrefixTree<Owner> {
  private readonly roots = new Map<Owner, PrefixNode>();
  /** In the order in which sequences left them. A piece is left before the one that it follows, so none precedes those behind it. */
  private readonly unused = new Set<PrefixNode>();
  private lastId = 0;
  /** Blocks of pieces that no sequence holds. */
  unusedBlocks = 0;

  /** Before the first piece of an owner's prompts. */
  root(owner: Owner): PrefixNode {
    let root = this.roots.get(owner);
    if (!root) {
      root = this.make(undefined, "", []);
      this.roots.set(owner, root);
    }
    return root;
  }

  find(parent: PrefixNode, key: string): PrefixNode | undefined {
    return parent.children.get(key);
  }

  /** A piece behind `parent`, which has none of this key; its blocks are the tree's from now on. Unused as yet. */
  add(parent: PrefixNode, key: string, blocks: readonly number[]): PrefixNode {
    invariant(!parent.children.has(key), "a prefix that is there already");
    const node = this.make(parent, key, blocks);
    parent.children.set(key, node);
    this.unused.add(node);
    this.unusedBlocks += blocks.length;
    return node;
  }

  /** A sequence begins to use this piece; it holds the piece's parent already. */
  hold(node: PrefixNode): void {
    if (node.uses++ > 0) return;
    this.unused.delete(node);
    this.unusedBlocks -= node.blocks.length;
  }

  /** A sequence that ended at this piece uses it and those before it no more. */
  release(last: PrefixNode): void {
    for (let node: PrefixNode = last; node.parent; node = node.parent) {
      if (--node.uses > 0) continue;
      this.unused.add(node);
      this.unusedBlocks += node.blocks.length;
    }
  }

  /** Takes out the piece that was used longest ago; its blocks. Undefined: all are in use. */
  evict(): readonly number[] | undefined {
    const [oldest] = this.unused;
    if (!oldest) return undefined;
    invariant(oldest.children.size === 0, "a prefix without which others mean nothing is given up");
    this.remove(oldest);
    return oldest.blocks;
  }

  /** Takes out all of an owner's pieces, none of which is in use; their blocks. */
  forget(owner: Owner): number[] {
    const root = this.roots.get(owner);
    this.roots.delete(owner);
    const blocks: number[] = [];
    const walk = (node: PrefixNode) => {
      for (const child of [...node.children.values()]) walk(child);
      if (!node.parent) return;
      invariant(node.uses === 0, "a prefix in use is forgotten");
      blocks.push(...node.blocks);
      this.remove(node);
    };
    if (root) walk(root);
    return blocks;
  }

  /** Takes out whatever no sequence holds. */
  clear(): number[] {
    const blocks: number[] = [];
    for (let found = this.evict(); found; found = this.evict()) blocks.push(...found);
    return blocks;
  }

  private make(parent: PrefixNode | undefined, key: string, blocks: readonly number[]): PrefixNode {
    const depth = (parent?.depth ?? 0) + blocks.length;
    return { id: ++this.lastId, parent, key, blocks, children: new Map(), depth, uses: 0 };
  }

  private remove(node: PrefixNode): void {
    node.parent!.children.delete(node.key);
    this.unused.delete(node);
    this.unusedBlocks -= node.blocks.length;
  }
}
