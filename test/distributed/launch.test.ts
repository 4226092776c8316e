// What the environment says of a launcher: which variables count, and which library is tried first.

import { describe, expect, it } from "vitest";
import { launchOf, libraryCandidates } from "../../src/distributed/launch.node.ts";

describe("launchOf", () => {
  it("is nothing where nobody launched", () => {
    expect(launchOf({})).toBeUndefined();
    // A batch script's own process, outside srun.
    expect(launchOf({ SLURM_NTASKS: "4", SLURM_PROCID: "0" })).toBeUndefined();
    expect(launchOf({ OMPI_COMM_WORLD_SIZE: "2", OMPI_COMM_WORLD_RANK: "x" })).toBeUndefined();
  });

  it("reads Open MPI's, Hydra's and srun's variables", () => {
    expect(
      launchOf({
        ...{ OMPI_COMM_WORLD_SIZE: "4", OMPI_COMM_WORLD_RANK: "3" },
        ...{ OMPI_COMM_WORLD_LOCAL_SIZE: "2", OMPI_COMM_WORLD_LOCAL_RANK: "1" },
        // Started within an allocation.
        ...{ SLURM_STEP_NUM_TASKS: "1", SLURM_PROCID: "0" },
      }),
    ).toMatchObject({ family: "openmpi", size: 4, rank: 3, local: { rank: 1, size: 2 } });
    expect(
      launchOf({ PMI_SIZE: "3", PMI_RANK: "2", MPI_LOCALNRANKS: "3", MPI_LOCALRANKID: "2" }),
    ).toMatchObject({
      ...{ family: "mpich", size: 3, rank: 2 },
    });
    const srun = { SLURM_STEP_NUM_TASKS: "8", SLURM_PROCID: "5", SLURM_LOCALID: "1" };
    expect(launchOf({ ...srun, SLURM_MPI_TYPE: "pmix" })).toMatchObject({
      family: "openmpi",
      size: 8,
      rank: 5,
    });
    expect(launchOf({ ...srun, SLURM_MPI_TYPE: "pmi2" })).toMatchObject({ family: "mpich" });
  });
});

describe("libraryCandidates", () => {
  it("takes LOWRANK_MPI alone", () => {
    expect(libraryCandidates("openmpi", { LOWRANK_MPI: "/x/libmpi.so" }, "linux")).toEqual(["/x/libmpi.so"]);
  });

  it("tries the launcher's own family first, Debian's names among them", () => {
    expect(libraryCandidates("openmpi", { PATH: "" }, "linux")[0]).toBe("libmpi.so.40");
    const mpich = libraryCandidates("mpich", { PATH: "" }, "linux");
    expect(mpich.slice(0, 3)).toEqual(["libmpi_abi.so.1", "libmpich.so.12", "libmpi.so.12"]);
    expect(mpich).toContain("libmpi.so.40");
  });
});
