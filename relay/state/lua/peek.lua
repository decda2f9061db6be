-- Which state this is, and the version of health in it.
return redis.call('MGET', KEYS[1] .. ':epoch', KEYS[1] .. ':version')
