"""Answers that cross to and from other programs.

answer_files  files of answers as other harnesses write them -> answers with what names their samples
matching      answers -> the samples that they belong to
box_texts     boxes as other models spell them
box_units     boxes in pixels, per cent or thousandths -> shares of the picture
spreadsheet   XLSX, read and written
submission    answers -> result files for the benchmarks' servers
"""
