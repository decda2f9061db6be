-- Replace the health of a node if it still is what the caller changed.
-- ARGV: repeated, node, record it was ('' for none), record it becomes. Returns '' when done, else the present record.

local P = KEYS[1]
local now = redis.call('HGET', P .. ':health', ARGV[2]) or ''
if ARGV[1] == '1' and now == ARGV[4] then
  return ''
end
if now ~= ARGV[3] then
  return now == '' and 'null' or now
end
redis.call('HSET', P .. ':health', ARGV[2], ARGV[4])
redis.call('INCR', P .. ':version')
return ''
