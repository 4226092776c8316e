// What a template makes of a conversation that it may refuse: a beginning that ends oddly, a role it does not know. Such a
// refusal is an answer there, and no error of the conversation itself.

import { UserError } from "../util/errors.ts";

/** The text, or undefined when the template refuses. */
export function unlessRefused(render: () => string): string | undefined {
  try {
    return render();
  } catch (error) {
    if (error instanceof UserError) return undefined;
    throw error;
  }
}
