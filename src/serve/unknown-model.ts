// The refusal of a model's name that nobody serves: told by the server and by the threads that prepare requests.

import { RequestError } from "./request-error.ts";

export function unknownModel(model: string, known: readonly string[]): RequestError {
  const shown = JSON.stringify(model.slice(0, 100));
  return new RequestError(
    `there is no model ${shown}; there are ${known.join(", ")}`,
    "model",
    404,
    "model_not_found",
  );
}
