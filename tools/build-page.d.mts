/** Writes the page into `folder`; without one, where the server looks for it. */
export function buildPage(folder?: string): Promise<void>;
