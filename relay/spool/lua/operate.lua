-- What an operator does with messages. ARGV: repeated, verb, due, standing, reason, 1 to take back what is leased and not
-- begun (else leased ones are left alone), ids. Returns ids that were changed, and for `drop` rows.

local verb, take_back, out = ARGV[2], ARGV[6] == '1', {}
for n = 7, #ARGV do
  local id = ARGV[n]
  local kept = redis.call('HMGET', m(id), 'q', 'st', 'tk', 'b')
  if take_back and kept[1] and kept[3] ~= '' and kept[4] == '0' then
    drop_lease(id, kept[3])
    put_back(id, '')
    kept[3] = ''
  end
  if kept[1] and kept[3] == '' then
    local queue, standing = kept[1], tonumber(kept[2])
    if verb == 'retry' then
      redis.call('HSET', m(id), 'st', 0, 'due', ARGV[3], 're', '', 'cr', 0)
      move(queue, standing, 0)
      wait_in(queue, id, ARGV[3])
      out[#out + 1] = id
    elseif verb == 'hold' and standing == 0 then
      redis.call('HSET', m(id), 'st', ARGV[4], 're', ARGV[5])
      move(queue, 0, tonumber(ARGV[4]))
      redis.call('ZREM', P .. ':w:' .. queue, id)
      out[#out + 1] = id
    elseif verb == 'drop' then
      out[#out + 1] = row(id)
      remove(id)
    end
  end
end
return out
