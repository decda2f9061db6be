-- Rows by id, or a page of all. ARGV: repeated, after ('' from the start), limit (0: those that are named), ids.

local ids = {}
if ARGV[3] == '0' then
  for n = 4, #ARGV do
    ids[#ids + 1] = ARGV[n]
  end
else
  local from = ARGV[2] == '' and '-' or '(' .. ARGV[2]
  ids = redis.call('ZRANGEBYLEX', P .. ':all', from, '+', 'LIMIT', 0, ARGV[3])
end
local out = {}
for _, id in ipairs(ids) do
  if redis.call('EXISTS', m(id)) == 1 then
    out[#out + 1] = row(id)
  end
end
return out
