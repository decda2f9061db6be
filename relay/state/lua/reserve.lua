-- Permits: relay/state/granting.py `answer`, for all requests of a call in one step.
--
-- ARGV: repeated, owner, number of the call, epoch, request (doubles: now or -1, candidates, requests), names.
-- Returns doubles: left (seconds for which nothing is granted because the state is being rebuilt), now; for each
-- request `1 index granted at blocks… advance until` or `0 until blocks…`; then what each cap of each candidate has used.

local owner, number, epoch = ARGV[2], ARGV[3], ARGV[4]
local answers = P .. ':answer:' .. owner
if REPEATED then
  local kept = redis.call('HMGET', answers, 'number', 'answer')
  if kept[1] == number then
    return kept[2]
  end
end
if (redis.call('GET', P .. ':epoch') or '') ~= epoch then
  return redis.error_reply('STALEEPOCH the shared state is not the one that was known')
end

local ADVANCE_S, SPARE, SPARE_LEAST = 0.1, 64, 1024 -- as in granting.py
local names = {}
for n = 6, #ARGV do
  names[#names + 1] = ARGV[n]
end
local read = reader(ARGV[5])
local now = read()
if now < 0 then
  now = time()
end
local candidates = read_candidates(read, names)
local out = { max(0, redis.call('PTTL', P .. ':rebuilding')) / 1000, now }

local function say(value)
  out[#out + 1] = value
end

local function book_room(candidate, cost, at)
  for _, cap in ipairs(candidate.caps) do
    local ledger = ledger_of(candidate.book, cap)
    expire(candidate.book, ledger, at)
    cost = min(cost, room(ledger, cap, at))
  end
  return cost
end

local function book_free_at(candidate, cost)
  local at = arrive(candidate.book, now)
  local free_at = at
  for _, cap in ipairs(candidate.caps) do
    free_at = max(free_at, ledger_free_at(ledger_of(candidate.book, cap), cap, cost, at))
  end
  return free_at
end

local function say_blocks(order, before, cost)
  local place = #out + 1
  say(0)
  for n = 1, before do
    local candidate = order[n]
    local at = arrive(candidate.book, now)
    for _, cap in ipairs(candidate.caps) do
      local ledger = ledger_of(candidate.book, cap)
      if room(ledger, cap, at) < cost then
        out[place] = out[place] + 1
        say(n - 1)
        say(cap.window)
        say(cap.limit)
        say(ledger.used)
        say(ledger_free_at(ledger, cap, cost, at))
      end
    end
  end
end

-- `granting._advance`: more than was asked for, where so much room is left that nobody goes without.
local function say_advance(candidate, wanted, at)
  local count = 0
  if wanted > 0 then
    count = wanted * (SPARE + 1) + SPARE_LEAST
    for _, cap in ipairs(candidate.caps) do
      count = cap.spread and 0 or min(count, room(ledger_of(candidate.book, cap), cap, at))
    end
    count = max(0, min(wanted, floor(count / (SPARE + 1)), count - SPARE_LEAST))
  end
  say(count)
  say(at + ADVANCE_S)
  if count > 0 then
    for _, cap in ipairs(candidate.caps) do
      take(ledger_of(candidate.book, cap), count, cap.limit, at + ADVANCE_S, false)
    end
  end
end

local function grant(order, index, count, at, cost, ahead)
  say(1)
  say(index - 1)
  say(count)
  say(at)
  -- The caps that ruled out earlier ones, as they stood before this grant: it may be counted in the same book.
  say_blocks(order, index - 1, cost)
  local candidate = order[index]
  for _, cap in ipairs(candidate.caps) do
    take(ledger_of(candidate.book, cap), count, cap.limit, at, cap.spread)
  end
  candidate.book.latest = at
  candidate.book.changed = true
  say_advance(candidate, ahead, at)
end

local function answer(cost, least, ahead, order)
  local most, roomiest = 0, 0
  for n, candidate in ipairs(order) do
    local at = arrive(candidate.book, now)
    local space = book_room(candidate, cost, at)
    if space >= cost then
      return grant(order, n, space, at, cost, ahead)
    end
    if space > most then
      most, roomiest = space, n
    end
  end
  if most > 0 and most >= least then
    return grant(order, roomiest, most, arrive(order[roomiest].book, now), cost, ahead)
  end
  least = min(least, cost)
  local till = math.huge
  for _, candidate in ipairs(order) do
    till = min(till, book_free_at(candidate, least))
  end
  say(0)
  say(till)
  say_blocks(order, #order, least)
end

local function refuse_for_now(order)
  local capped = false
  for _, candidate in ipairs(order) do
    capped = capped or #candidate.caps > 0
  end
  if not capped then
    return false
  end
  say(0)
  say(now + out[1])
  say(0)
  return true
end

for _ = 1, read() do
  local cost, least, ahead, order = read(), read(), read(), {}
  for n = 1, read() do
    order[n] = candidates[read() + 1]
  end
  if out[1] == 0 or not refuse_for_now(order) then
    answer(cost, least, ahead, order)
  end
end
for _, candidate in ipairs(candidates) do
  for _, cap in ipairs(candidate.caps) do
    say(ledger_of(candidate.book, cap).used)
  end
  save(candidate.book)
end
local text = packed(out)
redis.call('HSET', answers, 'number', number, 'answer', text)
redis.call('PEXPIRE', answers, 600000)
return text
