"""The families of tile models, each fitting one library's classes to the surface."""
