-- Learn which state this is, found one where there is none, and tell a new one what the lost one said.
--
-- ARGV: repeated, known epoch or '', new epoch, grace in milliseconds, least version of health, doubles (now or -1,
-- candidates, used for each cap), number of names, names, number of turns, cursor and turn of each, then node and
-- record of health of each. Returns the epoch.

local known, fresh = ARGV[2], ARGV[3]
local epoch = redis.call('GET', P .. ':epoch')
if not epoch then
  epoch = fresh
  redis.call('SET', P .. ':epoch', epoch)
  if tonumber(ARGV[4]) > 0 then
    redis.call('SET', P .. ':rebuilding', 1, 'PX', ARGV[4])
  end
end
if known == '' or known == epoch then
  return epoch
end
local read = reader(ARGV[6])
local now = read()
if now < 0 then
  now = time()
end
local names, place = {}, 8
for n = 1, tonumber(ARGV[7]) do
  names[n] = ARGV[place]
  place = place + 1
end
for _, candidate in ipairs(read_candidates(read, names)) do
  local at = arrive(candidate.book, now)
  for _, cap in ipairs(candidate.caps) do
    local used = read()
    local ledger = ledger_of(candidate.book, cap)
    expire(candidate.book, ledger, at)
    if ledger.used < used then
      take(ledger, used - ledger.used, cap.limit, at, false)
      candidate.book.changed = true
    end
  end
  save(candidate.book)
end
for _ = 1, tonumber(ARGV[place]) do
  local cursor, turn = ARGV[place + 1], tonumber(ARGV[place + 2])
  place = place + 2
  if tonumber(redis.call('HGET', P .. ':turns', cursor) or 0) < turn then
    redis.call('HSET', P .. ':turns', cursor, turn)
  end
end
for n = place + 1, #ARGV, 2 do
  redis.call('HSETNX', P .. ':health', ARGV[n], ARGV[n + 1])
end
local version = tonumber(redis.call('GET', P .. ':version') or 0)
redis.call('SET', P .. ':version', string.format('%.0f', max(version, tonumber(ARGV[5])) + 1))
return epoch
