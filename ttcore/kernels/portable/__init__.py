"""Every kernel in array-API terms: the reference for the compiled twins, and the path for all "
"other array libraries.
"""
