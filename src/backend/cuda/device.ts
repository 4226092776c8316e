// A card as a backend: memory, copies, and a method for every kernel. A kernel that no file here launches is refused by its name when
// it is called. Not here: whether there is a card (../cuda.ts).

import { UserError } from "../../util/errors.ts";
import type { Backend, DeviceBuffer, Kernels, Precision } from "../backend.ts";
import { type ContractKernels, forEachKernel } from "../contract.ts";
import type { LedgerReport, MemoryCategory } from "../ledger.ts";
import type { CudaAddon, CudaCard } from "./addon.ts";
import { attentionKernels } from "./attention.ts";
import { columnKernels } from "./columns.ts";
import { asUserError, Commands, guarded } from "./commands.ts";
import { elementKernels } from "./elementwise.ts";
import { expertKernels } from "./experts.ts";
import { type CudaGpu, writtenKernels } from "./gpu.ts";
import { groupedKernels } from "./grouped.ts";
import { linearKernels } from "./linear.ts";
import { CudaMemory } from "./memory.ts";
import { ProductChoices, type ProductOptions } from "./product-choices.ts";
import type { Chooser } from "./product-types.ts";
import { recurrentKernels } from "./recurrent.ts";
import { reductionKernels } from "./reductions.ts";
import { rowKernels } from "./rows.ts";
import { updateKernels } from "./updates.ts";

export interface CardOptions {
  readonly addon: CudaAddon;
  readonly index: number;
  readonly card: CudaCard;
  readonly emulated: boolean;
  readonly precision: Precision;
  readonly description: string;
  /** PTX of one kernel. */
  ptxOf(file: string, kernel: string): string;
  /** How products are made; estimated where absent. */
  readonly products?: ProductOptions;
}

class CudaDevice implements Omit<Backend, keyof Kernels> {
  readonly name = "cuda";
  readonly floatType = "f32";
  readonly runsAhead = true;
  readonly rowsAlike = { few: 16, many: false, piece: 512 };
  readonly description: string;
  readonly precision: Precision;
  readonly commands: Commands;
  readonly memory: CudaMemory;
  private readonly addon: CudaAddon;
  private closed = false;

  constructor(options: CardOptions) {
    const { addon, index, card, emulated, ptxOf } = options;
    this.addon = addon;
    this.description = options.description;
    this.precision = options.precision;
    const handle = guarded(() => addon.open(index));
    const commands = new Commands(addon, handle, ptxOf);
    this.commands = commands;
    this.memory = new CudaMemory({
      granularity: addon.granularity(handle),
      totalBytes: card.memoryBytes,
      reserve: (sizeBytes) => guarded(() => addon.reserve(handle, sizeBytes)),
      grow: (address, sizeBytes) => guarded(() => addon.grow(handle, address, sizeBytes)),
      mark: emulated
        ? (address, sizeBytes, capacity, live) =>
            commands.launch("emulatorBlock", [1], { address, sizeBytes, capacity, live: live ? 1 : 0 })
        : undefined,
    });
  }

  get liveBytes(): number {
    return this.memory.ledger.liveBytes;
  }
  get peakBytes(): number {
    return this.memory.ledger.peakBytes;
  }
  ledger(): LedgerReport {
    return this.memory.ledger.report();
  }
  deviceMemory(): { availableBytes: number; heldBytes: number } {
    const { freeBytes } = guarded(() => this.addon.status(this.commands.card));
    const { heldBytes } = this.memory;
    return { availableBytes: freeBytes + heldBytes, heldBytes };
  }
  allocate(sizeBytes: number, category: MemoryCategory): DeviceBuffer {
    return this.memory.allocate(sizeBytes, category);
  }
  free(buffer: DeviceBuffer): void {
    this.memory.free(buffer);
  }

  write(buffer: DeviceBuffer, data: Uint8Array, offset = 0): void {
    const address = this.memory.within(buffer, offset, data.byteLength);
    this.commands.submit();
    guarded(() => this.addon.write(this.commands.card, address, data));
  }

  async read(buffer: DeviceBuffer, offset = 0, sizeBytes = buffer.sizeBytes - offset): Promise<Uint8Array> {
    const address = this.memory.within(buffer, offset, sizeBytes);
    this.commands.submit(true);
    try {
      return await this.addon.read(this.commands.card, address, sizeBytes);
    } catch (error) {
      throw asUserError(error);
    }
  }

  settle(): void {
    this.commands.submit(true);
    guarded(() => this.addon.wait(this.commands.card));
  }

  close(): void {
    if (this.closed) return;
    this.closed = true;
    this.commands.drop();
    this.addon.close(this.commands.card);
  }
}

/** Opens a card with a method for every kernel. UserError says what the driver said. */
export function openCard(options: CardOptions): Backend {
  const device = new CudaDevice(options);
  const { commands, memory } = device;
  const gpu: CudaGpu = {
    commands,
    memory,
    card: options.card,
    precision: options.precision,
    get products(): Chooser {
      return products;
    },
    settle: () => device.settle(),
    launch: (kernel, grid, values) => commands.launch(kernel, grid, values),
  };
  const products = new ProductChoices(gpu, options.products);
  const refused = (name: string) => () => {
    throw new UserError(`--backend cuda has no kernel "${name}" yet; use --backend webgpu or cpu`);
  };
  const launched: Partial<Kernels> = {
    ...elementKernels(gpu),
    ...reductionKernels(gpu),
    ...updateKernels(gpu),
    ...writtenKernels(gpu, {
      ...rowKernels(gpu),
      ...columnKernels(gpu),
      ...attentionKernels(gpu),
      ...recurrentKernels(gpu),
      ...expertKernels(gpu),
    }),
  };
  const kernels = forEachKernel((name) => launched[name] ?? refused(name)) as unknown as ContractKernels;
  return Object.assign(device, kernels, linearKernels(gpu), groupedKernels(gpu));
}
