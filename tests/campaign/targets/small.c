/* A library to open and close: see helper_dlopen_storm. */
int small_answer(void);

int small_answer(void)
{
    return 42;
}
