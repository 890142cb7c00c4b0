"""Made golden/mempulse.txt with the original: PYTHONPATH=mempulse-0.6.4 python3 mempulse.py > mempulse.txt"""
import sys
sys.path.pop(0)  # this file is called mempulse too
from mempulse import format_trace_result

sys.stdout.write(format_trace_result([
    ('benchmark.py', 53, 'run_mempulse_c', 26525696, 0, 28057600),
    ('/a/path/of/exactly/sixty-four/characters/with/its/line/n/b.py', 29, 'inner', 26525696, 0, 28057600),
    ('/a/path/of/exactly/sixty-four/characters/with/its/line/n/b.py', 31, 'inner', 115335168, 1048576, 117530624),
    ('/usr/lib/python3/dist-packages/package/subpackage/and/further/down/module.py', 1234567,
     'a_method_name_that_is_longer_than_the_column', 1234567890123, 4096, 836354048),
    ('/srv/測定/café.py', 7, '<lambda>', 999, 0, 1000),
    ('<string>', 3, '<listcomp>', 0, 0, 12),
]))
