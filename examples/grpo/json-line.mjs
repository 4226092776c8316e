// 1 where the first line is a JSON object. The tiny base writes such a line for about one story in a hundred by itself.

export default function jsonLine(_prompt, completion) {
  try {
    const found = JSON.parse(completion.split("\n")[0]);
    return typeof found === "object" && found !== null && !Array.isArray(found) ? 1 : 0;
  } catch {
    return 0;
  }
}
