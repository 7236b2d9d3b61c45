"""What only Linux has, behind one name each: whoever brings cardferry to another system begins here.

`peers` who is at the other end of a Unix socket; `descriptors` open files sent to another process; `locks` locks of
files; `limits` of this process; `activation` sockets that it was started with; `processes` other ones, and how they
end with this one.
"""
