// A reward that a person can see: 1 for a record {"who", "where", "what"} of texts and nothing else, 0 for anything else.
// lowrank calls it with a prompt, what the model wrote for it, and the row that the prompt is from.

export default function record(_prompt, completion) {
  try {
    const found = JSON.parse(completion);
    const texts = Object.values(found).every((value) => typeof value === "string");
    return texts && Object.keys(found).join() === "who,where,what" ? 1 : 0;
  } catch {
    return 0;
  }
}
