// The trackers by the names that --log takes. To add one: a file beside this one, a line here, its name in
// config/tracker-fields.ts, README.

import type { TrackerName } from "../../config/tracker-fields.ts";
import { mlflow } from "./mlflow.ts";
import { tensorboard } from "./tensorboard.ts";
import type { TrackerKind } from "./tracker.ts";
import { trackio } from "./trackio.ts";

export const trackers: Readonly<Record<TrackerName, TrackerKind>> = { tensorboard, trackio, mlflow };
