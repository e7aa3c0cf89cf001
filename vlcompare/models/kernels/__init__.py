"""The kernels: which implementation runs on a device (`dispatch`), the torch reference, and those of CPU and CUDA.

Nothing is imported here: in a server several threads import the models at the same time, and a package that imports its
own modules, while another thread imports one of those, leaves either with half a module.
"""
