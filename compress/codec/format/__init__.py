"""The bytes of a .krimp file as FORMAT.md describes them: header, sections, index, planes of an element."""
