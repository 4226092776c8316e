// What the environment says of who started this process: a launcher of MPI, with how many ranks, and which library is
// likely its own. Variables: Open MPI's mpirun, Hydra (MPICH, Intel MPI, MVAPICH) and Slurm's srun set those below; of
// Slurm only the step's, because a batch script's own process sees the job's too. Not here: MPI itself (mpi.node.ts).

import { realpathSync } from "node:fs";
import { delimiter, dirname, join } from "node:path";

type Environment = Readonly<Record<string, string | undefined>>;

export interface Launch {
  /** For people. */
  readonly launcher: "mpirun of Open MPI" | "a launcher of MPICH's kind" | "srun";
  readonly size: number;
  readonly rank: number;
  readonly local: { readonly rank: number; readonly size: number };
  /** Which of the families is asked for first. */
  readonly family: "openmpi" | "mpich";
}

/** How this process was launched as one of several, or as one by a launcher; undefined: by nobody. */
export function launchOf(env: Environment = process.env): Launch | undefined {
  const number = (...names: string[]): number | undefined => {
    for (const name of names) if (/^\d+$/.test(env[name] ?? "")) return Number(env[name]);
    return undefined;
  };
  const make = (
    launcher: Launch["launcher"],
    family: Launch["family"],
    [size, rank, localSize, localRank]: readonly (number | undefined)[],
  ): Launch | undefined =>
    size === undefined || rank === undefined
      ? undefined
      : { launcher, family, size, rank, local: { rank: localRank ?? rank, size: localSize ?? size } };
  return (
    make("mpirun of Open MPI", "openmpi", [
      number("OMPI_COMM_WORLD_SIZE"),
      number("OMPI_COMM_WORLD_RANK"),
      number("OMPI_COMM_WORLD_LOCAL_SIZE"),
      number("OMPI_COMM_WORLD_LOCAL_RANK"),
    ]) ??
    make("srun", env.SLURM_MPI_TYPE?.startsWith("pmi2") ? "mpich" : "openmpi", [
      number("SLURM_STEP_NUM_TASKS"),
      number("SLURM_PROCID"),
      number("SLURM_NTASKS_PER_NODE"),
      number("SLURM_LOCALID"),
    ]) ??
    make("a launcher of MPICH's kind", "mpich", [
      number("PMI_SIZE"),
      number("PMI_RANK"),
      number("MPI_LOCALNRANKS"),
      number("MPI_LOCALRANKID"),
    ])
  );
}

const linuxNames = {
  openmpi: ["libmpi.so.40", "libmpi.so.80"],
  mpich: ["libmpi_abi.so.1", "libmpich.so.12", "libmpi.so.12", "libmpi_cray.so.12"],
};
const macNames = {
  openmpi: ["libmpi.40.dylib", "libmpi.dylib"],
  mpich: ["libmpi_abi.1.dylib", "libmpich.12.dylib", "libmpi.12.dylib"],
};

/**
 * Libraries to try, in order: LOWRANK_MPI's alone where it is set; else those beside the launcher that is first on the
 * path, then what the system finds by name, of the launcher's family first.
 */
export function libraryCandidates(
  family: Launch["family"],
  env: Environment = process.env,
  platform: string = process.platform,
): string[] {
  if (env.LOWRANK_MPI) return [env.LOWRANK_MPI];
  const names = platform === "darwin" ? macNames : linuxNames;
  const wanted = [...names[family], ...names[family === "openmpi" ? "mpich" : "openmpi"]];
  const folders = ["mpirun", "mpiexec"].flatMap((launcher) => {
    const found = (env.PATH ?? "").split(delimiter).find((folder) => exists(join(folder, launcher)));
    return found === undefined ? [] : [join(dirname(realpathSync(join(found, launcher))), "..", "lib")];
  });
  const beside = [...new Set(folders)].flatMap((folder) => names[family].map((name) => join(folder, name)));
  return [...beside.filter(exists), ...wanted];
}

function exists(path: string): boolean {
  try {
    realpathSync(path);
    return true;
  } catch {
    return false;
  }
}
