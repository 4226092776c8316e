// Text of our own for receipts where the user gives none: plain prose, a list, a dialogue, numbers and code, so that
// common and rare tokens both occur. Its content does not matter; both models read the same.

export const sampleTexts: readonly string[] = [
  `The ferry left the harbour at half past six, when the fog still lay on the water. Maren stood at the rail with a paper cup of coffee and counted the buoys as they came out of the grey: red, green, red again. Her grandfather had told her that a good pilot could find the channel by its sound alone, by the way the engine's beat came back from the walls of the old fort. She listened, but all she heard was the bell and two men behind her arguing about the price of diesel.`,
  `Once upon a time, there was a small fox who lived at the edge of a wheat field. Every evening the fox walked to the well to look at the moon in the water. One night the moon was gone. "Who took it?" asked the fox. The owl laughed and said, "Nobody took it. Look up: a cloud is sleeping in front of it." The fox waited, and when the wind came the moon was back.`,
  `To change the filter: 1. Close the inlet valve. 2. Press the red button until no more water comes. 3. Unscrew the housing by hand, counterclockwise. 4. Replace the cartridge; the arrow points down. 5. Open the valve slowly and look for leaks. The part costs $24.90 and lasts about 6 months, or 4,000 litres.`,
  `Question: A train needs 3 hours for 210 kilometres. How far does it go in 5 hours at the same speed? Answer: In one hour it goes 210 / 3 = 70 kilometres, so in 5 hours it goes 5 * 70 = 350 kilometres.`,
  `function median(values) {\n  const sorted = [...values].sort((a, b) => a - b);\n  const middle = Math.floor(sorted.length / 2);\n  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;\n}\n`,
];
