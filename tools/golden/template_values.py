"""Goldens of values in chat templates: what transformers prints for JSON that is read by Python, number by number."""
import json
from jinja2.exceptions import TemplateError
from transformers.utils.chat_template_utils import render_jinja_template
from record import versions, write

# JSON texts, all our own.
VALUES = [
    "0", "-0", "7", "-12", "9007199254740991", "9007199254740992", "9007199254740993", "-9007199254740993",
    "18446744073709551615", "123456789012345678901234567890",
    "0.0", "-0.0", "12.0", "12.50", "1.0", "100.0", "0.1", "0.30000000000000004", "1e-07", "1E5", "1e5", "1e+5",
    "1.5e3", "1e15", "1e16", "1e17", "123456789012345680.0", "9007199254740993.5", "0.0001", "0.00001", "1e22", "1e23",
    "1.7976931348623157e308", "5e-324", "2.5e-5", "1e21", "0.99999999999999999999", "1e400", "-1e400",
    "[1, 1.0, 1e3, -0.0]", '{"10": "a", "2": "b", "x": 1.0}', '{"b": 1, "a": {"2024": 1e5, "10": 2}}',
    '{"id": 9007199254740993, "amount": 12.0, "rate": 1e-07, "by_year": {"2024": "a", "10": "b"}}',
    '{"7": 1, "7": 2.0, "1": 3}', "true", "false", "null", "[]", "{}", '[null, true, "x"]',
    '"it\'s"', '"say \\"hi\\""', '"a\\\\b\\n\\tc"', '["it\'s", "both \' and \\"", "\\n\\u0000\\u007f\\u00a0\\u200b", "\\u00e9 \\u4f60 \\ud83d\\ude00"]',
    '{"k\'ey": {"n": [1.0, {"deep": 2e2}]}}', '"12.0"', '{"minimum": 0.0, "maximum": 1.0, "default": null, "on": true}',
]
TEMPLATES = [
    "{{ x }}", "{{ x | tojson }}", "{{ x | tojson(indent=2) }}", "{{ x | tojson(ensure_ascii=True, sort_keys=true) }}",
    "{{ x | tojson(separators=(',', ':')) }}", "{{ 'v: ' ~ x ~ '.' }}", "{{ [x, 1.0] | join('; ') }}", "{{ x | string }}",
    "{{ {'v': x, 'two': 2.0} | tojson }}", "{{ x == 1 }}{{ x == '12.0' }}{{ x == 12 }}{{ x in [1, 12] }}",
    "{% for k in x %}{{ k }},{% endfor %}", "{% if x %}yes{% else %}no{% endif %}",
    "{% macro show(v) %}<{{ v }}>{% endmacro %}{{ show(x) }}", "{% set y = x %}{{ y }}",
]
ABSENT = [
    "{{ y | length }}", "{{ y | list | length }}", "{{ y | selectattr('a', 'equalto', 'b') | list | length }}",
    "{{ none | rejectattr('a') | list | length }}", "{{ y | map(attribute='a') | list | length }}", "{{ y }}{{ y ~ 1 }}",
    "<{{ y | trim }}{{ y | upper }}>", "{% for k in y %}{{ k }}{% endfor %}.", "{{ y is iterable }}{{ y is sequence }}",
    "{{ {'a': 1}[y] is defined }}{{ {'a': 1}[2] is defined }}",
    "{{ none }}", "{{ y == none }}{{ y == z }}{{ '1' == 1 }}{{ true == 1 }}{{ [1, 'a'] == [1.0, 'a'] }}",
]
KEYED = [
    "{% set d = {512: 128, 0: 'a', 16384: none} %}" + rest for rest in (
        "{% for k, v in d | dictsort %}{{ k + 1 }}:{{ v }};{% endfor %}", "{{ d[512] }}{{ d[16384] }}{{ d[7] is defined }}",
        "{% for k in d %}{{ k * 2 }},{% endfor %}", "{% for k, v in d.items() %}{{ k }}={{ v }},{% endfor %}",
        "{{ d.get(0) }}{{ d.get(1, 'none') }}{{ 512 in d }}{{ '512' in d }}{{ 3 not in d }}", "{{ d | length }}{{ d | tojson }}",
        "{{ d.keys() | list | length }}{{ d.values() | list | length }}{% if d %}yes{% endif %}",
    )
]
NUMERIC = [
    "{{ x + 1 }}", "{{ x - 0.5 }}", "{{ x * 2 }}", "{{ x / 4 }}", "{{ x // 5 }}", "{{ x % 7 }}", "{{ -x }}", "{{ x > 10 }}",
    "{{ x <= 9007199254740992 }}", "{{ x | int }}", "{{ x | float }}", "{{ x | abs }}", "{{ x is float }}{{ x is integer }}",
]


def rendered(template, value):
    message = {"role": "user", "held": [value]}
    source = "{% set x = messages[0]['held'][0] %}" + template
    try:
        (text,), _ = render_jinja_template(conversations=[[message]], chat_template=source)
        return text
    except (TemplateError, TypeError, OverflowError, ValueError, KeyError):
        return None


def main():
    cases = []
    for written in VALUES:
        value = json.loads(written)
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) != float("inf")
        for template in TEMPLATES + (NUMERIC if number else []):
            if isinstance(value, str) and "in x" in template:
                continue  # letters of a text: nothing to do with numbers
            cases.append({"value": written, "template": template, "text": rendered(template, value)})
    for template in ABSENT + KEYED:
        cases.append({"value": "0", "template": template, "text": rendered(template, 0)})
    write("template-values.json", {"versions": versions("transformers", "jinja2"), "cases": cases})


if __name__ == "__main__":
    main()
