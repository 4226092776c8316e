"""Regenerates every golden of test/golden. About a minute on two cores; see README.md beside this file."""
import adapter_files, adapter_kinds, adapters, added_tokens, bpe_words, formula, gguf_metadata, grpo, mixtures, models, optim, pairs, parquet_rows, preferences, qlora
import harmony, quant, rope, template_values, text

for family in (formula, models, mixtures, pairs, adapters, adapter_files, adapter_kinds, added_tokens, bpe_words, optim, grpo, preferences, quant, qlora, rope, template_values,
               parquet_rows, text, harmony, gguf_metadata):
    family.main()
