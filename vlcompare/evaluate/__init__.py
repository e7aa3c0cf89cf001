"""Evaluation: samples in, a run folder out, and figures, slices and exports from it.

    readers      files and data sets -> Sample                 `open_samples(spec, format=..)`
    run          both models over the samples                  `run(RunSettings)`: resumable, over several processes
    exchange     answers of other programs, and result files for the benchmarks' servers
    score_files  predictions of any program -> figures         `score_files(samples, predictions)`
    metrics, scoring, statistics, summary                      definitions, values by row, intervals, summary.json
    results      a run folder: its files, columns, slices, notes and exports
        run_folder   its files                                 `RunFolder.open(path)`, `join`, `find_runs`
        table        columns: filters, sorting, figures        `RunTable(run).select(Filter(..))`
        slices       figures by task, size, position, tag, ..  `slice_figures(table, aspect)`

torch, datasets and pyarrow are imported where they are needed.
"""
